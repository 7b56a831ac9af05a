"""How fast an epoch was trained, and whether it waited for its data."""

import os
import time

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: From which share of an epoch on waiting for data is worth a warning, and of
#: how many seconds.
MOST_WAITING, LEAST_S = 0.1, 30.0


class Pace:
    """Hands out the batches of an epoch and takes the time.

    The host prepares a GPU's work in advance, so a GPU need not stand still
    while the host waits for a batch. Its own clock tells. The first batch is
    left out: workers start with it.

    Arguments
    ---------
    loader : iterable
        Batches with ``noisy_wav``, lengths on the CPU.
    device : str or torch.device
        Where they are used.
    sample_rate_hz : int
        Sample rate.

    Example
    -------
    >>> from speechbrain.dataio.batch import PaddedBatch
    >>> batches = [PaddedBatch([{"noisy_wav": torch.zeros(8000)}])] * 3
    >>> pace = Pace(batches, "cpu", 16000)
    >>> for batch in pace:
    ...     time.sleep(0.01)
    >>> stats = pace.stats()
    >>> stats["audio_s_per_s"] < 150, stats["data_wait_share"] < 0.5
    (True, True)
    """

    def __init__(self, loader, device, sample_rate_hz):
        self.loader = loader
        self.device = torch.device(device)
        self.sample_rate_hz = sample_rate_hz
        self.seconds = self._audio_s = self._waited_s = 0.0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        on_gpu, done = self.device.type == "cuda", None
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        for batch in self.loader:
            ready = self._now()
            wavs, wav_lens = batch.noisy_wav
            audio_s = float(wav_lens.sum()) * wavs.shape[1]
            if done is None:
                start = time.perf_counter()
            yield batch
            if done is not None:
                # A GPU has passed both: the loss was read since.
                self._waited_s += self._seconds(done, ready)
            done = self._now()
            self._audio_s += audio_s / self.sample_rate_hz
            self.seconds = time.perf_counter() - start

    def _now(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, first, last):
        if self.device.type != "cuda":
            return last - first
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def stats(self):
        """Summarise the epoch so far; of all processes together.

        Returns
        -------
        dict
            ``audio_s_per_s``: seconds of audio, without padding, that were
            trained on per second; ``data_wait_share``: share of the time in
            which the device had nothing to do but wait for data; on a GPU
            ``peak_gib``, the most memory that was in use. Empty without a
            batch.
        """
        audio_s = self._audio_s
        if torch.distributed.is_initialized():
            audio_s = torch.tensor(audio_s, device=self.device)
            torch.distributed.all_reduce(audio_s)
        if not self.seconds:
            return {}
        stats = {
            "audio_s_per_s": float(audio_s) / self.seconds,
            "data_wait_share": self._waited_s / self.seconds,
        }
        if self.device.type == "cuda":
            peak_bytes = torch.cuda.max_memory_allocated(self.device)
            stats["peak_gib"] = peak_bytes / 2**30
        return stats


def told(stats):
    """Tell of an epoch's pace in a line.

    Arguments
    ---------
    stats : dict
        From :meth:`Pace.stats`, not empty.

    Returns
    -------
    str
        The line.

    Example
    -------
    >>> told({"audio_s_per_s": 393.2, "data_wait_share": 0.02})
    '393 s of audio per second, 2 % of the time without data'
    """
    parts = [
        f"{stats['audio_s_per_s']:.3g} s of audio per second",
        f"{100 * stats['data_wait_share']:.0f} % of the time without data",
    ]
    if "peak_gib" in stats:
        parts.append(f"{stats['peak_gib']:.1f} GiB at most")
    return ", ".join(parts)


class TellsItsPace:
    """What a Brain notes about the speed of an epoch's training."""

    pace_stats = {}  # of the last epoch

    def _fit_train(self, train_set, epoch, enable):
        pace = Pace(train_set, self.device, self.hparams.sample_rate_hz)
        super()._fit_train(pace, epoch, enable)
        self.pace_stats = stats = pace.stats()
        if not stats:
            return
        logger.info(f"epoch {epoch}: trained on {told(stats)}")
        waiting = stats["data_wait_share"]
        if waiting > MOST_WAITING and pace.seconds > LEAST_S:
            logger.warning(
                f"{self.device} waited for data {100 * waiting:.0f} % of epoch "
                f"{epoch}: try more num_workers (now "
                f"{self.hparams.num_workers}; {os.cpu_count()} CPU cores are "
                "here), or mix in advance (merit mix, train_mixtures)"
            )
