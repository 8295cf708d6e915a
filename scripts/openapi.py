"""Print the OpenAPI document of the application, settings at their defaults."""

import json

from app.main import create_app
from app.settings import Settings

print(json.dumps(create_app(Settings(_env_file=None)).openapi(), indent=2, ensure_ascii=False))
