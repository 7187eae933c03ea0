"""The report's pictures: before/after sliders, and what each arm found on the same night images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2

from nightaug.detect.truth import Truth
from nightaug.errors import ImageError
from nightaug.experiment.page import data_uri
from nightaug.experiment.report_match import IOU, Outcome, Row, Shown, choose, outcomes
from nightaug.experiment.report_read import Compared, Pair
from nightaug.experiment.report_words import safe
from nightaug.images import ImageArray, read_image

#: Bytes of encoded pictures a page may hold; base64 adds a third, so that it stays under 15 MB.
PICTURE_BYTES = 10_500_000
#: Sizes tried for a picture, px and JPEG quality, until it fits its share.
SIZES = ((960, 80), (960, 65), (720, 65), (560, 60), (400, 50), (240, 40))
#: A picture large, with buttons to go through the arms.
DIALOG = (
    '<dialog id="large" aria-label="large picture"><div class="tools">'
    '<button data-turn="-1" aria-label="previous arm">&lt;</button><output></output>'
    '<button data-turn="1" aria-label="next arm">&gt;</button><button data-close>close</button></div>'
    '<div class="scroll" tabindex="0"></div></dialog>'
)
#: The score from which detections are drawn where the comparison chose none.
SCORE = 0.25


def picture_uri(image: ImageArray, most: int) -> str:
    """An image as a JPEG data URI, scaled down until it has at most ``most`` bytes (or is as small as it gets)."""
    uri = ""
    for width, quality in SIZES:
        factor = min(1.0, width / image.shape[1])
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        uri = data_uri(small, quality)
        if len(uri) * 3 // 4 <= most:
            break
    return uri


class Pictures:
    """The page's images; every one gets the same share of the page's bytes.

    Args:
        count: how many will be asked for at most.
        missing: takes a sentence for every image that cannot be read.
    """

    def __init__(self, count: int, missing: list[str]) -> None:
        self.share = PICTURE_BYTES // max(count, 1)
        self.missing = missing

    def uri(self, path: Path | str) -> str | None:
        """The image as a data URI, or None."""
        try:
            return picture_uri(read_image(path), self.share)
        except (ImageError, ValueError) as error:  # a path with a zero byte is a ValueError
            if str(error) not in self.missing:  # several arms may show it
                self.missing.append(str(error))
            return None


def pictures_of(compared: Compared, shown: Sequence[Shown]) -> Pictures:
    """The allowance for all pictures of a page."""
    sources = {pair.source for pair in compared.pairs}
    return Pictures(len(sources) + len(compared.pairs) + len(shown), compared.missing)


def radios(group: str, names: Iterable[str], legend: str) -> str:
    """Buttons of which one is chosen; arrow keys go through them."""
    items = "".join(
        f'<label><input type="radio" name="{group}" data-picks="{group}" value="{at}"{" checked" if at == 0 else ""}>'
        f"<span>{safe(name)}</span></label>"
        for at, name in enumerate(names)
    )
    return f'<fieldset class="radios"><legend>{legend}</legend><div>{items}</div></fieldset>'


def sliders_section(pairs: Sequence[Pair], pictures: Pictures) -> str:
    """A slider for each day image; the translators take turns in it."""
    arms = list(dict.fromkeys(pair.arm for pair in pairs))
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.source].append(pair)
    figures = []
    for source, group in groups.items():
        before = pictures.uri(source)
        if before is None:
            continue
        name = safe(Path(source).name)
        afters = ""
        for pair in group:
            after = pictures.uri(pair.translated)
            if after is not None:
                afters += (
                    f'<img class="after" data-of="pairs" data-key="{arms.index(pair.arm)}" src="{after}" '
                    f'alt="{name} made night for {safe(pair.arm)}">'
                )
        if afters:
            figures.append(
                f'<figure><div class="slider"><img src="{before}" alt="{name} by day">{afters}<div class="bar"></div>'
                f'<input type="range" min="0" max="100" value="50" aria-label="before and after of {name}"></div>'
                f"<figcaption>{name}</figcaption></figure>"
            )
    if not figures:
        return ""
    picker = radios("pairs", arms, "Arm")
    told = "<p>Drag across a picture: day on the left, made night on the right.</p>"
    return f'{told}{picker}<div class="grid">{"".join(figures)}</div>'


def shown_images(compared: Compared) -> tuple[list[Shown], float]:
    """The test images to show with what every arm did there, and the score threshold."""
    score = compared.table.score if compared.table.score is not None else SCORE
    truth, found = compared.truth, {}
    for arm in compared.table.arms:
        run = next((run for run in compared.runs if run.arm == arm.name), None)
        results = compared.results(run) if run is not None else None
        if truth is not None and results is not None:
            found[arm.name] = outcomes(truth, results, score)
    if truth is None or not found:
        return [], score
    there = {image["id"] for image in truth.images if image["id"] in compared.images}
    return choose(truth, found, there), score


def detections_section(compared: Compared, shown: Sequence[Shown], score: float, pictures: Pictures) -> str:
    """The same night images with what each arm hit, missed and invented; one arm at a time."""
    if compared.truth is None or not shown:
        return ""
    arms = list(shown[0].outcomes)
    figures = [_figure(item, compared.truth, compared.images[item.image], arms, pictures) for item in shown]
    if not any(figures):
        return ""
    how = " (none could be chosen on dev)" if compared.table.score is None else ""
    return (
        "<p>The first images are those where the arms differ most, the last ones were drawn at random. Shown are "
        f"detections with a score of {score:.2f} or more{how}, by the first seed of each arm; a hit overlaps its "
        f"object by IoU {IOU:g}. Numbers: objects found, of how many, and false alarms.</p>"
        '<p class="keys"><span class="hit">hit</span><span class="miss">missed object</span>'
        '<span class="false">false alarm</span></p>'
        f'{radios("found", arms, "Arm")}<div class="grid">{"".join(figures)}</div>' + DIALOG
    )


def _figure(item: Shown, truth: Truth, path: Path, arms: Sequence[str], pictures: Pictures) -> str:
    image = next(image for image in truth.images if image["id"] == item.image)
    uri = pictures.uri(path)
    if uri is None:
        return ""
    layers, chips = "", ""
    for at, arm in enumerate(arms):
        outcome = item.outcomes[arm]
        total = len(outcome.hits) + len(outcome.missed)
        said = f"{len(outcome.hits)} of {total} found, {len(outcome.false)} false"
        layers += f'<g data-of="found" data-key="{at}">{_boxes(outcome, truth.classes)}</g>'
        alarms = f" +{len(outcome.false)}" if outcome.false else ""
        chips += (
            f'<button type="button" data-sets="found" value="{at}" title="{safe(arm)}: {said}"><b>{safe(arm)}</b> '
            f"{len(outcome.hits)}/{total}{alarms}</button>"
        )
    name = safe(Path(image["file_name"]).name)
    why = "drawn at random" if item.at_random else "arms differ"
    box = f"0 0 {image['width']} {image['height']}"
    return (
        f'<figure class="found"><div class="shot"><img src="{uri}" alt="night image {name} with detections">'
        f'<svg viewBox="{box}" preserveAspectRatio="none" aria-hidden="true">{layers}</svg></div>'
        f'<button type="button" class="enlarge" aria-label="enlarge {name}">\u2922</button>'
        f'<figcaption><div class="chips">{chips}</div>{name} · {why}</figcaption></figure>'
    )


def _boxes(outcome: Outcome, classes: Sequence[str]) -> str:
    def box(kind: str, row: Row, text: str) -> str:
        x, y, width, height = row["bbox"]
        return (
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
            f"<title>{text} {safe(classes[row['category_id'] - 1])}</title></rect>"
        )

    parts = [box("miss", row, "missed:") for row in outcome.missed]
    parts += [box("false", row, f"false alarm ({row['score']:.2f}):") for row in outcome.false]
    parts += [box("hit", row, f"hit ({row['score']:.2f}):") for row in outcome.hits]
    return "".join(parts)
