"""One run of chaos, from an empty database to a verdict."""

import asyncio
import random
import time
from pathlib import Path
from typing import Final

import asyncpg

from tests.chaos import checker
from tests.chaos.driver import Crowd
from tests.chaos.follower import stop
from tests.chaos.injector import Injector
from tests.chaos.recorder import History
from tests.chaos.report import Report, check_logs, unexpected
from tests.chaos.stage import RUN_TIMEOUT_S, Stage, staged
from tests.chaos.student import Network
from tests.chaos.truth import Truth, read_truth
from tests.chaos.weather import Weather
from tests.e2e import invariants
from tests.stack import until

GRACE_S: Final = 35.0
"""How much longer than `RUN_TIMEOUT_S` a run may take whose workers and database are away."""
HEALED_S: Final = 120.0
PURGED_S: Final = 120.0
UNENDED: Final = """
SELECT count(*) AS n FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE r.ended_at IS NULL AND s.deleted_at IS NULL
"""
HIDDEN: Final = "SELECT count(*) AS n FROM sessions WHERE deleted_at IS NOT NULL"


async def run(
    folder: Path,
    *,
    kills: int,
    seed: int,
    wall_seconds: float,
    students: int,
    background: bool = False,
) -> Report:
    """Kill so often, or for so long; heal; check everything."""
    report = Report(seed)
    began = time.monotonic()
    chance = random.Random(seed)
    history = History()
    async with staged(folder, chance, background=background) as stage:
        network = Network(stage.urls)
        crowd = Crowd(network, history, random.Random(chance.getrandbits(64)))
        try:
            injector = Injector(stage, crowd, random.Random(chance.getrandbits(64)))
            weather = Weather(stage, random.Random(chance.getrandbits(64)))
            crowd.begin(students)
            raging = asyncio.create_task(weather.rage())
            await injector.kill(kills, within=wall_seconds)
            await stop(raging)
            report.counts["seconds killing"] = int(time.monotonic() - began)
            await _settle(stage, crowd, history)
            report.counts["seconds until settled"] = int(time.monotonic() - began)
        finally:
            await crowd.close()
        truth = await _verdict(stage, history, report)
        report.kills = injector.kills
        report.counts.update(stage.counts)
        report.counts["reconnects"] = crowd.reconnects
        report.tally(history, truth)
    if report.violations:
        history.write(folder / "history.json")
    report.seconds = time.monotonic() - began
    return report


async def _settle(stage: Stage, crowd: Crowd, history: History) -> None:
    """Heal; wait until every run has ended and every reader has been shown it."""
    await stage.heal()
    await crowd.hush()

    async def all_ended() -> bool:
        return not (await stage.fetch(UNENDED))[0]["n"]

    try:
        await until(all_ended, within=HEALED_S, every=0.25)
    except AssertionError:
        history.stuck.append("runs do not end although all is well")
    await crowd.go_home()


async def _verdict(stage: Stage, history: History, report: Report) -> Truth:
    async def all_purged() -> bool:
        return not (await stage.fetch(HIDDEN))[0]["n"]

    if not await all_purged():
        # Housekeeping comes every quarter of a minute, and when a worker begins.
        await stage.replace_workers()
    try:
        await until(all_purged, within=PURGED_S, every=0.25)
    except AssertionError:
        history.stuck.append("deleted sessions are not purged although all is well")
    posts = await stage.sandbox.posts()
    await stage.dismiss()
    connection = await asyncpg.connect(stage.database_url)
    try:
        truth = await read_truth(connection, posts)
        report.violations += await invariants.violations(connection)
    finally:
        await connection.close()
    report.violations += checker.violations(history, truth, life_s=RUN_TIMEOUT_S + GRACE_S)
    report.violations += check_logs(stage.logs()) + unexpected(stage.failures)
    return truth
