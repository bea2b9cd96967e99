"""`lumina sound`: a sound for a clip that has none, or another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import StepsOption, check_checkpoint
from pipelines.commands.written import check_file
from pipelines.errors import PipelineError
from pipelines.terminal import make_console

if TYPE_CHECKING:
    from curation.decoder import Decoder


def sound(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video of 0.64 to 10 s, at any frame rate.")],
    checkpoint: Annotated[
        str, typer.Option(metavar="DIR", help="Exported video-to-audio checkpoint, or hf:owner/name.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.mp4", help="File to write; the sound alone goes beside it, as FILE.wav.")
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What is heard.")] = "",
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same sound.", show_default="the checkpoint's")
    ] = None,
    steps: StepsOption = None,
) -> None:
    """Give a clip a sound that fits what is seen, and when it happens.

    The video stream is copied as it is; one that MP4 does not take (GIF, VP8, AVI) is encoded anew as H.264. A sound
    that was there is replaced.
    """
    if out.suffix.lower() != ".mp4":
        raise PipelineError(f"--out {out}: expected a file name that ends in .mp4")
    beside = out.with_suffix(".wav")
    for file in (out, beside):
        check_file("--out", file, makes_folder=True)
    if not clip.is_file():
        raise PipelineError(f"{clip} is no file: give a video")
    if out.exists() and out.samefile(clip):
        raise PipelineError(f"--out {out} is the clip itself: name another file")
    check_checkpoint("--checkpoint", checkpoint)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from curation.decode_limits import DecodeLimits
    from curation.decoder import Decoder
    from curation.schema import RowError

    decoder = Decoder(DecodeLimits())
    try:
        told = _scored(decoder, clip, checkpoint, out, beside, prompt, seed, steps)
    except RowError as error:
        raise PipelineError(f"{clip}: {error.reason}: {error.detail}") from error
    finally:
        decoder.close()
    make_console().print(told, soft_wrap=True)


def _scored(
    decoder: Decoder,
    clip: Path,
    checkpoint: str,
    out: Path,
    beside: Path,
    prompt: str,
    seed: int | None,
    steps: int | None,
) -> str:
    """Write both files; returns what is said of them."""
    import torch

    from curation.media_kinds import HEAD_BYTES, media_of
    from curation.silent_film import film_alone, small_frames
    from lumina.audio_tracks import AudioTrack, add_track, write_wav
    from lumina.files import replacing
    from lumina.parts import SOUND_FILE
    from lumina.video_to_audio.sound_model import SoundModel
    from lumina.video_to_audio.sound_parts import find_sound_parts, read_sound_settings

    settings = read_sound_settings(find_sound_parts(checkpoint)[SOUND_FILE])
    with clip.open("rb") as opened:
        if media_of(opened.read(HEAD_BYTES), clip.name) == "image":
            raise PipelineError(f"{clip} is an image: a sound needs a video")
    found = decoder.probe(clip, "video")
    try:
        needed = settings.lengths(found.duration_s)
    except ValueError as error:
        raise PipelineError(f"{clip}: {error}") from error
    film = film_alone(decoder, clip, found.track or "")
    model = SoundModel.load(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    frames = small_frames(decoder, clip, found.track or "", needed, model.sides)
    track = AudioTrack(model.sound_of(*frames, found.duration_s, prompt, seed, steps))
    with replacing(out) as partial, replacing(beside) as alone:
        add_track(film.mp4, partial, track)
        write_wav(alone, track)
    video = f"{film.codec} copied" if film.copied else f"{film.codec} encoded anew as h264"
    return f"{out}: {found.duration_s:.2f} s, {video}; the sound alone is {beside}"
