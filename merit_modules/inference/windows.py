"""How a recording of any length is cut into overlapping windows.

Window number ``j`` answers for the samples ``[j * hop, (j + 1) * hop)`` and
sees ``left`` more before and ``right`` more after them. The last window ends
with the recording and reaches back as far as any other is long, so no window
is short unless the recording is. The cut depends on nothing but the number of
samples; a live stream, whose end nobody knows, is cut the same way.
"""

from typing import NamedTuple

from merit_modules.errors import InputError


class Window(NamedTuple):
    """A piece of a recording that is computed at once.

    Arguments
    ---------
    start : int
        First sample that it sees.
    stop : int
        One after the last sample that it sees.
    own_start : int
        First sample that it answers for.
    own_stop : int
        One after the last sample that it answers for, unless it turns out to
        be the last window: that one answers for all up to ``stop``.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int


class Chunking(NamedTuple):
    """How much audio is computed at once, in seconds.

    Arguments
    ---------
    chunk_s : float
        New audio per window.
    left_s : float
        Context before it.
    right_s : float
        Context after it.
    fade_s : float
        Length of a cross-fade.
    """

    chunk_s: float
    left_s: float
    right_s: float
    fade_s: float


#: For recordings: up to 50 s are computed whole. Attention hears a minute, so
#: that less context would give another result than the whole recording.
RECORDED = Chunking(chunk_s=40.0, left_s=10.0, right_s=10.0, fade_s=1.0)
#: For what is still going on: the result is there after little more than 2 s.
LIVE = Chunking(chunk_s=1.0, left_s=8.0, right_s=1.0, fade_s=0.1)


class Windowing(NamedTuple):
    """Sizes of windows in samples, all multiples of a frame's hop.

    Arguments
    ---------
    hop : int
        New samples per window.
    left : int
        Context before them.
    right : int
        Context after them.
    fade : int
        Samples over which a window fades into the next one.
    grid : int
        Samples from one frame to the next: frames of all windows coincide.

    Example
    -------
    >>> windowing = Windowing(640, left=320, right=320, fade=160, grid=320)
    >>> [tuple(window) for window in windowing.cut(1700)]
    [(0, 960, 0, 640), (320, 1600, 640, 1280), (640, 1700, 1280, 1700)]
    """

    hop: int
    left: int
    right: int
    fade: int
    grid: int

    @classmethod
    def of(cls, chunking, sample_rate_hz, frame_hop):
        """Round sizes in seconds to whole frames.

        Arguments
        ---------
        chunking : Chunking or sequence of float
            Sizes in seconds; a fade is at most twice the shorter context.
        sample_rate_hz : int
            Sample rate.
        frame_hop : int
            Samples from one frame to the next.

        Returns
        -------
        Windowing
            The sizes.

        Raises
        ------
        InputError
            If a size cannot be.

        Example
        -------
        >>> Windowing.of(Chunking(20, 4, 4, 1), 16000, 320).latency
        392000
        """

        def frames(seconds):
            return round(seconds * sample_rate_hz / frame_hop) * frame_hop

        chunk_s, left_s, right_s, fade_s = chunking
        sizes = {"left_s": left_s, "right_s": right_s, "fade_s": fade_s}
        for name, value in sizes.items():
            if not 0 <= value < float("inf"):
                raise InputError(
                    f"{name}: expected 0 or more seconds, got {value}"
                )
        if not frame_hop / sample_rate_hz <= chunk_s < float("inf"):
            raise InputError(
                "chunk_s: expected at least a frame "
                f"({frame_hop / sample_rate_hz:g} s), got {chunk_s}"
            )
        if right_s < 2 * frame_hop / sample_rate_hz:
            # A frame's receptive field reaches over its own hop.
            raise InputError(
                "right_s: expected at least 2 frames "
                f"({2 * frame_hop / sample_rate_hz:g} s), got {right_s}"
            )
        hop, left, right = map(frames, (chunk_s, left_s, right_s))
        fade = round(fade_s * sample_rate_hz / 2) * 2
        if fade > 2 * min(left, right) or fade > hop:
            raise InputError(
                f"fade_s: expected at most {2 * min(left_s, right_s):g} s "
                f"(twice the shorter context) and chunk_s, got {fade_s:g}"
            )
        return cls(hop, left, right, fade, frame_hop)

    @property
    def size(self):
        """Samples of a window that is not at the beginning."""
        return self.left + self.hop + self.right

    @property
    def latency(self):
        """Samples after which an enhanced sample is out, at the latest.

        That long it takes until a window can be computed whose first samples
        are wanted, not counting the time to compute it.
        """
        return self.hop + self.right + self.fade // 2

    def regular(self, number):
        """Give the window of a number, if the recording goes on behind it.

        Arguments
        ---------
        number : int
            From 0.

        Returns
        -------
        Window
            The window.
        """
        own = number * self.hop
        return Window(
            max(0, own - self.left),
            own + self.hop + self.right,
            own,
            own + self.hop,
        )

    def last(self, number, n_samples):
        """Give the window of a number, if the recording ends in it.

        Arguments
        ---------
        number : int
            From 0.
        n_samples : int
            Length of the recording.

        Returns
        -------
        Window
            The window.
        """
        own = number * self.hop
        beyond = max(0, self.regular(number).stop - n_samples)
        back = beyond // self.grid * self.grid
        start = max(0, own - self.left - back)
        return Window(start, n_samples, own, n_samples)

    def cut(self, n_samples):
        """Cut a recording of known length.

        Arguments
        ---------
        n_samples : int
            Its length, 1 or more.

        Yields
        ------
        Window
            One after another.
        """
        number = 0
        while self.regular(number).stop < n_samples:
            yield self.regular(number)
            number += 1
        yield self.last(number, n_samples)
