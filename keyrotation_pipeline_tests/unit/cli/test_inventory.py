"""What `inventory` says of what it does not examine: how much, and on request what."""

import pytest

from keyrotation_pipeline.cli.inspect import _blind_spots
from keyrotation_pipeline_tests.fakes import fake_pipeline


@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_not_examined_is_counted_and_named_on_request(*, verbose: bool) -> None:
    spots = fake_pipeline().pipeline.environment.blind_spots()
    text = "\n".join(map(str, _blind_spots(spots, verbose=verbose)))
    named = [each for each in (*map(str, spots.unsearched), *spots.unseen) if each in text]
    if verbose:
        assert named == [*map(str, spots.unsearched), *spots.unseen]
    else:
        assert named == []
        assert text.strip().startswith(f"{len(spots.unsearched)} places were not searched, {len(spots.unseen)} kinds")
        assert "`keyrotation inventory --verbose`" in text
