"""What docker-compose.yml and deploy/nginx.conf say of each other."""

import re

from tests.stack import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
NGINX = (ROOT / "deploy" / "nginx.conf").read_text()


def service(name: str) -> str:
    """Return a service's lines."""
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n)+)", COMPOSE, re.MULTILINE)
    assert found, name
    return found[1]


def test_nginx_knows_every_api_process_by_an_address_that_it_keeps() -> None:
    known = re.findall(r"server (\S+):8000 ", NGINX)
    assert known == re.findall(r"^  (api-\d):$", COMPOSE, re.MULTILINE)
    assert len(known) == 2
    addresses = {re.findall(r"ipv4_address: (\S+)", service(name))[0] for name in known}
    assert len(addresses) == 2


def test_the_api_believes_nginx_alone() -> None:
    (trusted,) = re.findall(r"FORWARDED_ALLOW_IPS: (\S+)", COMPOSE)
    assert f"ipv4_address: {trusted}\n" in service("nginx")
    assert "./deploy/nginx.conf:/etc/nginx/nginx.conf:ro" in service("nginx")
    published = re.findall(r'- "127\.0\.0\.1:\d+:(\d+)"', COMPOSE)
    assert published == re.findall(r"listen (\d+);", NGINX)


def test_workers_are_two_and_have_the_time_to_drain() -> None:
    worker = service("worker")
    assert "replicas: 2" in worker
    (grace_s,) = re.findall(r"stop_grace_period: (\d+)s", worker)
    (drain_s,) = re.findall(r"#WORKER_DRAIN_S=(\d+)", (ROOT / ".env.example").read_text())
    assert int(grace_s) >= int(drain_s) + 15
