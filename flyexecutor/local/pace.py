"""How long things take here, and how many times faster than on Fly. Owns nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds as they were on Fly, and the speed by which they are divided."""

    speed: float = 1.0
    image: float = 0.0
    boot: float = 0.0
    resume: float = 0.0
    suspend: float = 0.0

    def here(self, seconds: float) -> float:
        """How long something takes here that takes so long on Fly."""
        return seconds / self.speed

    def seconds_of(self, change: str) -> float:
        """How long an "image", "boot", "resume" or "suspend" takes here. A "stop" takes what the program takes."""
        times = {"image": self.image, "boot": self.boot, "resume": self.resume, "suspend": self.suspend}
        return self.here(times.get(change, 0.0))
