"""Where the names of points go in a figure, so that none lies on another, on a point, or outside."""

import math
from collections.abc import Iterator, Sequence

Box = tuple[float, float, float, float]  # left, bottom, right, top
Position = tuple[float, float]

DIRECTIONS = 16
STEP = 6.0


def place(points: Sequence[Position], sizes: Sequence[Position], bounds: Box, margin: float = 5.0) -> list[Position]:
    """Return the lower left corner of each point's label: the nearest free place, found one after the other.

    A label that fits nowhere goes to the right of its point, over whatever is there.

    Args:
        points: in pixels.
        sizes: width and height of each label, in pixels.
        bounds: where labels may be.
        margin: distance kept from points.

    >>> [(round(x, 1), round(y, 1)) for x, y in place([(50, 50)], [(20, 10)], (0, 0, 100, 100))]
    [(55.3, 55.3)]
    """
    taken: list[Box] = [(x - margin, y - margin, x + margin, y + margin) for x, y in points]
    places = []
    for point, size in zip(points, sizes, strict=True):
        corners = _candidates(point, size, bounds, margin)
        free = (corner for corner in corners if not any(overlap(_box(corner, size), box) for box in taken))
        corner = next(free, (point[0] + margin, point[1] - size[1] / 2))
        taken.append(_box(corner, size))
        places.append(corner)
    return places


def overlap(one: Box, other: Box) -> bool:
    """Say whether two boxes share more than an edge.

    >>> overlap((0, 0, 2, 2), (1, 1, 3, 3)), overlap((0, 0, 2, 2), (2, 0, 4, 2))
    (True, False)
    """
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _candidates(point: Position, size: Position, bounds: Box, margin: float) -> Iterator[Position]:
    """Yield corners of labels round a point, from near to far, that lie within the bounds."""
    (x, y), (width, height) = point, size
    reach = math.hypot(bounds[2] - bounds[0], bounds[3] - bounds[1])
    distance = 1.5 * margin  # so that a label at 45 degrees is clear of the square that the point takes
    while distance < reach:
        for number in range(DIRECTIONS):
            angle = 2 * math.pi * (number + 2) / DIRECTIONS  # from the upper right on
            left = x + distance * math.cos(angle) - width * _part(math.cos(angle))
            bottom = y + distance * math.sin(angle) - height * _part(math.sin(angle))
            inside = bounds[0] <= left and left + width <= bounds[2]
            if inside and bounds[1] <= bottom and bottom + height <= bounds[3]:
                yield left, bottom
        distance += STEP


def _part(direction: float) -> float:
    """Return which part of a label lies before the spot: none if it goes on from there, all if it ends there."""
    return 0.0 if direction > 0.5 else 1.0 if direction < -0.5 else 0.5


def _box(corner: Position, size: Position) -> Box:
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]
