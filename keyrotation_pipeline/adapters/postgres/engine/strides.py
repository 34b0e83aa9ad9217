"""The order in which the rows of a page range are read.

Where we may vacuum, it is page after page. Where the role may not vacuum, each stretch of pages is passed six times,
and each pass takes a sixth of each page's rows. The first pass replaces row versions; the server removes them when it
next looks at the page, and the next pass writes into their room. So a table grows by a sixth instead of doubling. With
five passes it grew to 1.23 times its size; eight passes were no better than six.
"""

from dataclasses import dataclass

STRIDES = 6
# Long enough that a pass is committed before the next one begins, short enough to stay in the server's cache.
_STRETCH_PAGES = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows to read: of the pages from `first` to before `end`, those of one stride. With one stride, all rows.

    Args:
        done_before: every page before this one is done once all earlier readings are written.
        then_done_before: the same once this reading is written too.
    """

    first: int
    end: int
    stride: int
    done_before: int
    then_done_before: int


@dataclass
class Strides:
    """Gives out the readings from page `stretch` to before page `end`.

    Args:
        strides: how often each page is passed. With one pass there are no stretches.
    """

    stretch: int
    end: int
    strides: int
    _stride: int = 0
    _offset: int = 0

    @property
    def over(self) -> bool:
        """Whether every reading was given out."""
        return self.stretch >= self.end

    def next(self, pages: int) -> Reading:
        """The next reading, of at most so many pages."""
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
