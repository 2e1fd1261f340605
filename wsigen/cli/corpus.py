"""``wsigen corpus``: make corpora of synthetic slides, and verify them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wsigen.cli.parse import gathered, parse
from wsigen.config.corpus import CorpusConfig, ExportCorpusConfig, LabelCorpusConfig, VerifyCorpusConfig
from wsigen.errors import InvalidValueError

ACTIONS = {
    "make": "make the slides of a corpus, or continue",
    "verify": "compare the files of a corpus with their checksums",
    "label": "outline tissue and nuclei, with positivity from the IHC slides",
    "export": "cut patches for training, or write the slides as DICOM or OME-Zarr",
}
LISTS = ("--overview", "--gate-slides")  # flags that take several paths
MAKE = (
    "Make a corpus: many synthetic slides, alone or as pairs, with manifest, splits, dataset card and "
    "checksums in one folder. If interrupted, run the same command again; with a larger --count it adds "
    "slides. On one machine, on a Ray cluster (--engine ray), or as an array job (--shard I/N)."
)
VERIFY = "Compare every file of a corpus with its checksum, and its manifest with what is there."
LABEL = (
    "Outline the tissue and the nuclei of every slide, and measure the DAB of each nucleus on the IHC "
    "slides. Write them for QuPath (CORPUS/labels/NAME.geojson), as a mask on the slide's grid "
    "(NAME_mask.tif) and, for each split, as COCO (SPLIT.coco.json)."
)
EXPORT = (
    "Cut patches of a corpus, H&E and IHC of the same place together, tissue only: as WebDataset shards, or "
    "as a folder that `datasets.load_dataset` reads. Or write its slides as DICOM, where a pair is two "
    "series of one study, or as OME-Zarr. One part for each split."
)


def run(argv: Sequence[str], prog: str = "wsigen corpus") -> None:
    """Parse ``argv`` and make, verify, label or export a corpus.

    Raises:
        InvalidValueError: no such action, or the corpus is not what its checksums say.
    """
    action, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if action in ("-h", "--help"):
        width = max(map(len, ACTIONS))
        lines = [f"  {name:<{width}}  {what}" for name, what in ACTIONS.items()]
        sys.stdout.write("\n".join([f"usage: {prog} ACTION …", "", *lines, ""]))
        sys.exit(0 if argv else 2)
    if action not in ACTIONS:
        raise InvalidValueError(f"no action {action!r}; use one of {', '.join(ACTIONS)}")
    {"make": _make, "verify": _verify, "label": _label, "export": _export}[action](rest, f"{prog} {action}")


def _make(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(CorpusConfig, gathered(argv, LISTS), prog=prog, description=MAKE)
    from wsigen.corpus.make import describe, make_corpus
    from wsigen.runtime import keep_freed_memory

    keep_freed_memory()
    if config.dry_run:
        sys.stdout.write(describe(config) + "\n")
    else:
        make_corpus(config)


def _verify(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(VerifyCorpusConfig, argv, prog=prog, description=VERIFY, positional="corpus")
    from wsigen.corpus.manifest import verify

    problems = verify(config.corpus)
    if problems:
        raise InvalidValueError(f"{config.corpus}: " + "; ".join(problems))
    sys.stdout.write(f"{config.corpus}: every file is as it was made\n")


def _label(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(LabelCorpusConfig, argv, prog=prog, description=LABEL, positional="corpus")
    from wsigen.corpus.labels import label_corpus

    found = label_corpus(config)
    sys.stdout.write(f"{config.corpus}: {sum(found.values())} nuclei in {len(found)} slides\n")


def _export(argv: Sequence[str], prog: str) -> None:
    config, _ = parse(ExportCorpusConfig, argv, prog=prog, description=EXPORT, positional="corpus")
    from wsigen.corpus.export import export

    what = "slides" if config.slide_format else "patches"
    for split, count in export(config).items():
        sys.stdout.write(f"{config.out}: {count} {what} of {split}\n")
