"""Clips with sound for a page: H.264 and AAC in an MP4, each film decoded once and heard under many sounds."""

from __future__ import annotations

import io
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.schema import RowError
from lumina.faults import MachineError
from pipelines.compare.runs import Side
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store

if TYPE_CHECKING:
    from curation.decoder import Decoder

_SIDE = 160
"""Pixels of the shorter side at most."""
_CRF = 23


@dataclass(frozen=True)
class Film:
    """What is seen of a clip."""

    mp4: bytes
    """Without a sound."""
    poster: str
    """Its first frame as a `data:` URI."""

    def with_sound(self, wave: NDArray[np.float32], rate: int) -> bytes:
        """The film as an MP4 with an AAC track."""
        from lumina.audio_tracks import AudioTrack, add_track

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            add_track(self.mp4, path, AudioTrack(wave, rate))
            return path.read_bytes()


@dataclass(frozen=True)
class Films:
    """Films of probed clips."""

    decoder: Decoder
    root: str
    """Against which their URIs resolve."""

    def film(self, probed: Mapping[str, Any], seconds: float, fps: float) -> Film | str:
        """The first seconds of a clip, or why it cannot be shown."""
        from PIL import Image

        from lumina.video import write_h264

        try:
            frames = self._frames(probed, seconds, fps)
        except (RowError, MachineError) as error:
            return f"{probed['uri']} cannot be shown: {error}"
        picture = io.BytesIO()
        Image.fromarray(frames[0]).save(picture, "PNG", optimize=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            write_h264(path, frames, fps, crf=_CRF)
            return Film(path.read_bytes(), uri(picture.getvalue(), "image/png"))

    def _frames(self, probed: Mapping[str, Any], seconds: float, fps: float) -> NDArray[np.uint8]:
        from curation.decode import clip_times, frames_at
        from curation.fitting import Fit
        from curation.operator import Env
        from curation.short_side import to_short_side

        short = min(_SIDE, probed["width"], probed["height"])
        times = clip_times(probed, [number / fps for number in range(max(1, round(seconds * fps)))])
        fit = Fit(to_short_side, (short, short))
        shown = frames_at(self.decoder, probed, Env(self.root), times, fit).pixels
        height, width = (max(2, side // 2 * 2) for side in shown.shape[1:3])
        return np.ascontiguousarray(shown[:, :height, :width])


@contextmanager
def films(store: Store, record: RunRecord, side: Side, uris: list[str]) -> Iterator[Films]:
    """Open films of the clips of a run; those with these URIs are fetched where a stage of the run made them."""
    from curation.decode_limits import DecodeLimits
    from curation.decoder import Decoder

    made = next((name for name, entry in record.stages.items() if entry.path and entry.path == record.media_root), None)
    output = side.stages[made].output if made else None
    for name in uris if output else ():
        output.find(name)  # type: ignore[union-attr]
    decoder = Decoder(DecodeLimits())
    try:
        yield Films(decoder, str(store.root / record.media_root))
    finally:
        decoder.close()


def uri(content: bytes, kind: str) -> str:
    """Bytes as a `data:` URI."""
    return f"data:{kind};base64,{b64encode(content).decode()}"
