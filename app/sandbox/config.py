"""What an operator of the sandbox may choose."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """Settings of one sandbox.

    Attributes:
        tokens_per_second: Pace of the generated text; 0 does not wait at all.
        resume_window_s: How long after its creation a background response can be
            streamed again.
        solve_deadline_s: Wall time for one calculation.
        max_body_bytes: Larger requests get 413.
        max_file_bytes: Larger files get 413.
        max_files_bytes: Memory for all files; what would exceed it gets 403.
    """

    tokens_per_second: float = 40.0
    resume_window_s: float = 300.0
    solve_deadline_s: float = 3.0
    max_body_bytes: int = 32 * 1024 * 1024
    max_file_bytes: int = 128 * 1024 * 1024
    max_files_bytes: int = 512 * 1024 * 1024
