"""The crowd: students who ask at random, with readers on everything, until they are sent home."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Final

from tests.chaos.follower import Follower, stop
from tests.chaos.recorder import History
from tests.chaos.student import Network, Student, Talk

TALKS: Final = 3
"""Sessions that a student has open at once."""
POLICIES: Final = ("reject", "reject", "enqueue", "enqueue", "interrupt")
SETTLE_S: Final = 40.0
"""What a reader is owed once all is well again; the slow poll behind a lost wake-up included."""


class Crowd:
    """Students, what they do, and those who read along."""

    def __init__(self, network: Network, history: History, seed: random.Random) -> None:
        self.network = network
        self.history = history
        self.random = seed
        self.students: list[Student] = []
        self.reconnects = 0
        self._lives: list[asyncio.Task[None]] = []
        self._runs: set[asyncio.Task[Any]] = set()
        self._readers: dict[asyncio.Task[None], Follower] = {}

    def student(self, name: str) -> Student:
        """Welcome somebody."""
        own = random.Random(self.random.getrandbits(64))
        student = Student(name, self.network, self.history, own)
        self.students.append(student)
        return student

    def begin(self, count: int) -> None:
        """Let some live as they like."""
        for number in range(count):
            student = self.student(f"student-{number}")
            self._lives.append(asyncio.create_task(self._live(student)))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something beside."""
        task = asyncio.create_task(work)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    # ------------------------------------------------------------ a life

    async def _live(self, student: Student) -> None:
        while not self.network.is_closing:
            talks = [talk for talk in student.talks if not talk.is_deleted]
            if len(talks) < TALKS or student.random.random() < 0.05:
                await self.converse(student)
            else:
                await self._act(student, student.random.choice(talks))
            await asyncio.sleep(student.random.uniform(0.05, 1.0))

    async def converse(self, student: Student, *, at: int | None = None) -> Talk | None:
        """Open a session and read along: from its start, and in a second tab from now on."""
        talk = await student.open(at=at)
        if talk is not None:
            self._read(Follower(student, talk))
            if student.random.random() < 0.3:
                self._read(Follower(student, talk, after=None, cuts=0.03))
        return talk

    async def _act(self, student: Student, talk: Talk) -> None:
        choice = student.random.random()
        if choice < 0.45:
            has_key = student.random.random() < 0.8
            policy = student.random.choice(POLICIES)
            run = await student.post(talk, policy=policy, has_key=has_key)
            self.watch(student, talk, run)
        elif choice < 0.6:
            self.spawn(self.ask_aloud(student, talk))
        elif choice < 0.66:
            self.watch(student, talk, await student.again(talk))
        elif choice < 0.7:
            await student.post(talk, wants_run=False)
        elif choice < 0.8 and talk.runs:
            await student.cancel(talk, talk.runs[-1])
        elif choice < 0.84:
            await student.delete(talk)
        else:
            await student.look("transcript", talk, None)

    def watch(self, student: Student, talk: Talk, run: str | None) -> None:
        """Follow a run, or poll it, or both."""
        if run is None:
            return
        for _ in range(student.random.randint(0, 2)):
            self._read(Follower(student, talk, run, after=None, cuts=0.02))
        if student.random.random() < 0.6:
            self.spawn(student.wait(talk, run))

    async def ask_aloud(self, student: Student, talk: Talk) -> str | None:
        """Ask with the answer as the POST's own stream; go on at the run's when that is cut."""
        op = student.operation("post", talk)
        op.key = op.word
        follower = Follower(student, talk, cuts=0.02)
        policy = student.random.choice(POLICIES)
        body = {"content": student.question(op), "on_active_run": policy, "run": True}
        follower.cursor = None
        await follower.post(op, body)
        # Sent again, as after a cut: it is answered as the first time.
        answer = await student.send(op, "POST", f"/v1/sessions/{talk.id}/messages", body)
        if answer is not None:
            follower.run = answer["run"]["id"]
            talk.runs.append(answer["run"]["id"])
            self._read(follower)
        return follower.run

    def _read(self, follower: Follower) -> None:
        task = asyncio.create_task(follower.follow())
        self._readers[task] = follower

    # ------------------------------------------------------------ the end of it

    async def hush(self) -> None:
        """Let nobody begin anything more; wait until all that was begun came out somehow."""
        self.network.is_closing = True
        await self._in_time("a client's request", self._lives)

    async def go_home(self) -> None:
        """When all is well and every run has ended: every reader must have been shown all."""
        await self._in_time("a poll of a run", self._runs)
        ends: dict[str, int | None] = {}
        for student in self.students:
            for talk in student.talks:
                ends[talk.id] = await student.last_seq(talk)
        waits = [self._until_shown(task, each, ends) for task, each in self._readers.items()]
        await asyncio.gather(*waits)
        self.reconnects = sum(max(0, f.connections - 1) for f in self._readers.values())
        await asyncio.gather(*(self._recount(s, t, ends) for s in self.students for t in s.talks))

    async def _in_time(self, what: str, tasks: Any) -> None:
        if tasks:
            _, late = await asyncio.wait(set(tasks), timeout=SETTLE_S * 2)
            for task in late:
                self.history.stuck.append(f"{what}: {task.get_coro()}")
                await stop(task)
            for task in set(tasks) - late:
                task.result()

    async def _until_shown(
        self, task: "asyncio.Task[None]", follower: Follower, ends: dict[str, int | None]
    ) -> None:
        end = ends.get(follower.talk.id)
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while not task.done():
            if follower.run is None and end is not None and (follower.cursor or 0) >= end:
                break
            if follower.run is None and follower.cursor is None and end is not None:
                # It reads from now, and there was nothing since.
                break
            if asyncio.get_running_loop().time() > deadline:
                who = f"{follower.path} stands at {follower.cursor} of {end}"
                self.history.stuck.append(who)
                break
            await asyncio.sleep(0.05)
        if task.done():
            task.result()
        else:
            await stop(task)

    async def _recount(self, student: Student, talk: Talk, ends: dict[str, int | None]) -> None:
        """Read everything once more, at every API process."""
        for api in range(len(student.http)):
            await student.look("transcript", talk, None, api=api)
            for run in talk.runs:
                await student.look("run", talk, run, api=api)
        if ends[talk.id]:
            everything: list[str | None] = [None, *talk.runs]
            for each in everything:
                reader = Follower(student, talk, each, cuts=0)
                try:
                    async with asyncio.timeout(SETTLE_S):
                        await reader.follow(upto=ends[talk.id] if each is None else None)
                except TimeoutError:
                    self.history.stuck.append(f"{reader.path} from the start, at {reader.cursor}")

    async def close(self) -> None:
        """Hang up everywhere."""
        for task in (*self._lives, *self._runs, *self._readers):
            await stop(task)
        for student in self.students:
            await student.close()
