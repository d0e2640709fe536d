"""A token bucket that keeps a download at its rate."""

from dataclasses import dataclass


@dataclass
class Bucket:
    """Tokens for `rate` bytes a second; those that are not used are kept for a quarter of a second."""

    rate: int
    at: float
    left: float = 0.0

    def wait(self, taken: int, now: float) -> float:
        """Seconds until more may be taken, after `taken` bytes."""
        self.left = min(self.rate / 4, self.left + (now - self.at) * self.rate) - taken
        self.at = now
        return max(0.0, -self.left / self.rate)
