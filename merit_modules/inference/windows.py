"""How a recording of any length is cut into overlapping windows.

Window number ``j`` answers for the samples ``[j * hop, (j + 1) * hop)`` and
sees ``left`` more before and ``right`` more after them. The last window ends
with the recording and reaches back as far as any other is long, so no window
is short unless the recording is. The cut depends on nothing but the number of
samples; a live stream, whose end nobody knows, is cut the same way.
"""

from math import ceil, gcd
from typing import NamedTuple

import torch

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
    is_whole : bool
        Whether it is the whole recording.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int
    is_whole: bool = False


class Sizes(NamedTuple):
    """Sizes of windows in seconds.

    Arguments
    ---------
    chunk_s : float
        New audio per window.
    left_s : float
        Context before it.
    right_s : float
        Context after it.
    """

    chunk_s: float
    left_s: float
    right_s: float


class Chunking(NamedTuple):
    """How a recording is computed that is longer than a window.

    Encoder, routers and experts need some context and much memory, the SE
    head's recurrent layers little memory and much context: each has windows of
    its own.

    Arguments
    ---------
    encoder : Sizes
        Windows of the SSL encoder, the routers and the experts.
    se_head : Sizes
        Windows of the SE head.
    fade_s : float
        Seconds over which a window of the SE head fades into the next one.
    """

    encoder: Sizes
    se_head: Sizes
    fade_s: float


#: For recordings: up to 36 s are computed whole.
RECORDED = Chunking(Sizes(24.0, 12.0, 12.0), Sizes(120.0, 30.0, 30.0), 1.0)
#: For what is still going on: the result is there after about 1.6 s.
LIVE = Chunking(Sizes(0.5, 6.0, 0.5), Sizes(0.5, 6.0, 0.5), 0.1)


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
    >>> [window[:4] for window in windowing.cut(1700)]
    [(0, 960, 0, 640), (320, 1600, 640, 1280), (640, 1700, 1280, 1700)]
    """

    hop: int
    left: int
    right: int
    fade: int
    grid: int

    @classmethod
    def of(cls, sizes, fade_s, sample_rate_hz, frame_hop):
        """Round sizes in seconds to whole frames.

        Arguments
        ---------
        sizes : Sizes or sequence of float
            New audio, context before and after it.
        fade_s : float
            Length of a cross-fade; at most twice the shorter context.
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
        >>> Windowing.of(Sizes(20, 4, 4), 1.0, 16000, 320).size
        448000
        """

        def frames(seconds):
            return round(seconds * sample_rate_hz / frame_hop) * frame_hop

        chunk_s, left_s, right_s = sizes
        frame_s = frame_hop / sample_rate_hz
        least = {
            "chunk_s": (chunk_s, frame_s),
            "left_s": (left_s, 0.0),
            # A frame's receptive field reaches over its own hop.
            "right_s": (right_s, 2 * frame_s),
            "fade_s": (fade_s, 0.0),
        }
        for name, (value, bound) in least.items():
            if not bound <= value < float("inf"):
                raise InputError(
                    f"{name}: expected at least {bound:g} s, got {value:g}"
                )
        hop, left, right = map(frames, (chunk_s, left_s, right_s))
        fade = round(fade_s * sample_rate_hz / 2) * 2
        most_s = min(2 * left_s, 2 * right_s, chunk_s)
        if fade > min(2 * left, 2 * right, hop):
            raise InputError(
                f"fade_s: expected at most {most_s:g} s (chunk_s, and twice "
                f"the shorter context), got {fade_s:g}"
            )
        return cls(hop, left, right, fade, frame_hop)

    @property
    def size(self):
        """Samples of a window that is not at the beginning."""
        return self.left + self.hop + self.right

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
        return Window(start, n_samples, own, n_samples, number == 0)

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


def latency(windowing, behind=None):
    """Count the samples after which a result is out, at the latest.

    Arguments
    ---------
    windowing : Windowing
        Windows of the encoder.
    behind : Windowing, optional
        Windows of what works on that, as the SE head does.

    Returns
    -------
    int
        Samples from the first one that waits for a window to the last one
        that the window needs.

    Example
    -------
    >>> windowing = Windowing(640, 320, 320, 0, 320)
    >>> latency(windowing), latency(windowing, Windowing(640, 0, 640, 160, 320))
    (960, 1680)
    """
    if behind is None:
        return windowing.hop + windowing.right
    # What is settled grows in steps; the pattern repeats after some windows.
    waits = []
    for number in range(1, windowing.hop // gcd(windowing.hop, behind.hop) + 1):
        window = behind.regular(number)
        settled = ceil(window.stop / windowing.hop) * windowing.hop
        first = window.own_start - behind.fade // 2
        waits.append(settled + windowing.right - first)
    return max(waits)


#: Fewest samples that a system takes: the receptive field of one SSL frame.
MIN_SAMPLES = 400


class WindowFeeder:
    """Cuts a recording that arrives block by block.

    Arguments
    ---------
    windowing : Windowing
        How it is cut.

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> feeder = WindowFeeder(Windowing(640, 320, 320, 160, 320))
    >>> [len(wav) for _, wav in feeder.feed(torch.zeros(1500))]
    [960]
    >>> [len(wav) for _, wav in feeder.close()]
    [1180]
    """

    def __init__(self, windowing):
        self.windowing = windowing
        self.n_samples = 0
        self._number = 0
        self._kept = torch.zeros(0)
        self._kept_from = 0

    def feed(self, block):
        """Take the next samples.

        Arguments
        ---------
        block : torch.Tensor
            Samples (n,); any number, also none.

        Yields
        ------
        tuple
            Each :class:`~merit_modules.inference.windows.Window` that can be
            computed by now, and its samples.
        """
        self._kept = torch.cat([self._kept, block])
        self.n_samples += len(block)
        while self.windowing.regular(self._number).stop <= self.n_samples:
            window = self.windowing.regular(self._number)
            yield window, self._take(window)
            # The last window may reach back to where this one began.
            self._kept = self._kept[window.start - self._kept_from :].clone()
            self._kept_from = window.start
            self._number += 1

    def close(self):
        """End the recording.

        Yields
        ------
        tuple
            The last window and its samples, unless the one before already saw
            the end. A recording that is shorter than a frame is continued
            with zeros.
        """
        first = self._number == 0
        seen = 0 if first else self.windowing.regular(self._number - 1).stop
        if self.n_samples > seen:
            window = self.windowing.last(self._number, self.n_samples)
            wav = self._take(window)
            missing = max(0, MIN_SAMPLES - len(wav))
            yield window, torch.nn.functional.pad(wav, (0, missing))

    def _take(self, window):
        start, stop = (at - self._kept_from for at in window[:2])
        return self._kept[start:stop]


class Piece(NamedTuple):
    """A stretch of a recording, or a window of one.

    Arguments
    ---------
    wav : torch.Tensor
        Its samples (n,) as the system took them.
    features : dict
        Task name to features of its frames (T, R).
    routing : dict
        Task name to the best expert of each frame (T,), int8.
    """

    wav: torch.Tensor
    features: dict
    routing: dict

    def cut(self, grid, start, stop=None):
        """Take a part.

        Arguments
        ---------
        grid : int
            Samples from one frame to the next.
        start : int
            First sample; a multiple of ``grid``.
        stop : int, optional
            One after the last sample; a multiple of ``grid``.

        Returns
        -------
        Piece
            The part.
        """
        frames = slice(start // grid, stop if stop is None else stop // grid)
        return Piece(
            self.wav[start:stop],
            {task: f[frames] for task, f in self.features.items()},
            {task: e[frames] for task, e in self.routing.items()},
        )


def join(pieces):
    """Put pieces one behind the other.

    Arguments
    ---------
    pieces : sequence of Piece
        One or more, of the same tasks.

    Returns
    -------
    Piece
        All of them.

    Example
    -------
    >>> join([Piece(torch.zeros(2), {}, {}), Piece(torch.ones(1), {}, {})]).wav
    tensor([0., 0., 1.])
    """
    wavs, features, routing = zip(*pieces)

    def together(parts):
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    return Piece(torch.cat(wavs), together(features), together(routing))


class WindowJoiner:
    """Joins the windows of one recording, in their order.

    Arguments
    ---------
    windowing : Windowing
        How it was cut.

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> windowing = Windowing(640, 320, 320, 0, 320)
    >>> wav, joiner, pieces = torch.randn(1700), WindowJoiner(windowing), []
    >>> for window in windowing.cut(1700):
    ...     result = Piece(wav[window.start : window.stop], {}, {})
    ...     pieces.append(joiner.add(window, result))
    >>> pieces.append(joiner.finish())
    >>> [len(piece.wav) for piece in pieces]
    [640, 640, 420, 0]
    >>> torch.equal(torch.cat([piece.wav for piece in pieces]), wav)
    True
    """

    def __init__(self, windowing):
        self.windowing = windowing
        self._late = None

    def add(self, window, result):
        """Take the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : Piece
            What the system made of it.

        Returns
        -------
        Piece
            The stretch that it answers for.
        """
        grid = self.windowing.grid
        start, stop = (at - window.start for at in window[2:4])
        if window.own_stop == window.stop:
            # The end of a recording lies between two frames.
            self._late = result.cut(grid, -(-len(result.wav) // grid) * grid)
            return result.cut(grid, start)
        self._late = result.cut(grid, stop)
        return result.cut(grid, start, stop)

    def finish(self):
        """End the recording.

        Returns
        -------
        Piece
            What the last window saw beyond the stretch that it answers for.
        """
        return self._late
