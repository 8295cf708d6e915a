"""Who the caller is."""

import dataclasses

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present, schemas
from app.api.deps import CurrentUser, Services
from app.api.problems import responses

router = APIRouter(prefix="/v1", tags=["users"], responses=responses(401, 503))


@router.get("/me", response_model=schemas.UserOut)
async def read_me(services: Services, user: CurrentUser) -> Response:
    """Who I am, what I may have at once, and what is left of it."""
    standing = await services.users.standing(user)
    limits = standing.limits
    principal = user.principal
    return present.body(
        {
            "id": user.id,
            "object": "user",
            "subject": principal.subject,
            "tenant": principal.tenant,
            "scopes": sorted(principal.scopes),
            "limits": dataclasses.asdict(limits),
            "remaining": {
                "queued_runs": standing.queued_runs_left,
                "streams": services.relay.streams_left(user),
                "files": standing.files_left,
                "files_bytes": standing.file_bytes_left,
            },
        }
    )
