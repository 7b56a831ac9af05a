#!/usr/bin/env python3
"""Make the CSV file of a corpus whose recordings lie in a folder per emotion.

> python manifest_folders.py /corpora/mine --speaker "([a-z]+)_"

writes /corpora/mine/list.csv for a corpus such as::

    /corpora/mine/calm/anna_1.wav
    /corpora/mine/tense/ben_1.wav

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import argparse
import csv
import io
import re
import sys
from collections import Counter
from pathlib import Path

from manifest_rows import read_rows

from merit_modules.errors import InputError
from merit_modules.files import find_audio, locale_problem, write_atomically


def write_list(corpus, out=None, speaker=None):
    """List recordings, the folder just below the corpus being the emotion.

    Arguments
    ---------
    corpus : str or Path
        The folder that holds a folder per emotion.
    out : str or Path, optional
        The file to write, which must not be there; ``list.csv`` in the corpus
        by default.
    speaker : str, optional
        Regular expression that is searched in each path from the emotion's
        folder on; its first group, or all of it, is the speaker.

    Returns
    -------
    out : Path
        What was written.
    table : manifest_rows.Table
        The same, as it is read.

    Raises
    ------
    InputError
        If there are no such folders, the expression is none or does not fit,
        or the file is there already.

    Example
    -------
    >>> corpus = getfixture("tmp_path") / "folders"
    >>> for name in ("calm/anna_1.wav", "tense/ben_1.wav"):
    ...     (corpus / name).parent.mkdir(parents=True)
    ...     (corpus / name).touch()
    >>> out, table = write_list(corpus, speaker="([a-z]+)_")
    >>> print(out.read_text())
    wav,emo,spk_id
    calm/anna_1.wav,calm,anna
    tense/ben_1.wav,tense,ben
    """
    corpus = Path(corpus)
    out = Path(out) if out else corpus / "list.csv"
    if out.exists():
        raise InputError(f"{out}: is there already; give another --out")
    try:
        pattern = re.compile(speaker or "(?!)")
    except re.error as error:
        raise InputError(f"--speaker: {speaker!r}: {error}") from None
    is_inside = out.absolute().parent == corpus.absolute()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["wav", "emo", "spk_id"])
    emotions = {}
    for file in find_audio(corpus, "a folder per emotion", tell=print):
        emotion, *below = file.relative_to(corpus).parts
        if not below:
            print(f"left out, in no folder of an emotion: {file}")
            continue
        _check_name(file)
        found = pattern.search("/".join(below))
        if speaker and not found:
            raise InputError(
                f"{file}: --speaker: expected {speaker!r} in "
                f"{'/'.join(below)!r}"
            )
        name = found[min(pattern.groups, 1)] if found else ""
        wav = file.relative_to(corpus) if is_inside else file.absolute()
        writer.writerow([wav.as_posix(), emotion, name])
        emotions[emotion] = None
    if len(emotions) < 2:
        raise InputError(
            f"{corpus}: expected two or more folders of recordings, a folder "
            f"per emotion, got {', '.join(emotions) or 'none'}"
        )
    write_atomically(out, stream.getvalue())
    try:
        return out, read_rows(out)
    except InputError:
        out.unlink()
        raise


def _check_name(file):
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(
            locale_problem(file)
            or f"{str(file)!r}: expected a name in UTF-8; rename the file"
        ) from None


def main(argv=None):
    """Write the CSV file and tell what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="holds a folder per emotion")
    parser.add_argument("--out", help="file to write (CORPUS/list.csv)")
    parser.add_argument(
        "--speaker",
        help="regular expression: its first group, found in the path below "
        "the emotion's folder, is the speaker",
    )
    options = parser.parse_args(argv)
    try:
        out, table = write_list(options.corpus, options.out, options.speaker)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = Counter(row.emo for row in table.rows)
    n_speakers = len({row.spk_id for row in table.rows} - {None})
    for note in table.notes:
        print(note)
    print(
        f"{out}: {', '.join(f'{n} {name}' for name, n in counts.items())}; "
        f"{n_speakers or 'no'} speakers"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
