"""The order in which the rows of a walk are read.

Where vacuums go along it is page after page. Where the role may not vacuum, a stretch of pages is passed six times,
each time for a sixth of each page's rows: what the first pass replaces leaves room in its own page (the server prunes
it when it next looks at the page) for what the next one writes. So a table grows by a sixth instead of doubling; with
five passes it grew by 1.23, with eight no less than with six.
"""

from dataclasses import dataclass

STRIDES = 6
# Long enough that a pass is committed before the next one comes by, short enough to stay in the server's cache.
_STRETCH_PAGES = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows to be read: of the pages `first` to before `end`, those of one stride (of all rows, where there is one).

    Args:
        done_before: all is done before this page, once every earlier reading is written.
        then_done_before: and before this one, once this reading is written too.
    """

    first: int
    end: int
    stride: int
    done_before: int
    then_done_before: int


@dataclass
class Course:
    """Gives out the readings from page `stretch` to before page `end`.

    Args:
        strides: how often each page is passed; pages that are passed once need no stretches.
    """

    stretch: int
    end: int
    strides: int
    _stride: int = 0
    _offset: int = 0

    @property
    def over(self) -> bool:
        """Whether everything was given out."""
        return self.stretch >= self.end

    def next(self, pages: int) -> Reading:
        """The next reading, of so many pages at most."""
        first = self.stretch + self._offset
        if self.strides == 1:
            self.stretch = min(first + pages, self.end)
            return Reading(first, self.stretch, 0, first, self.stretch)
        done, stride, stretch_end = self.stretch, self._stride, min(self.stretch + _STRETCH_PAGES, self.end)
        end = min(first + pages, stretch_end)
        self._offset = end - self.stretch
        if end == stretch_end:
            self._stride, self._offset = stride + 1, 0
        if self._stride == self.strides:
            self.stretch, self._stride = stretch_end, 0
        return Reading(first, end, stride, done, self.stretch)
