"""CPU of each scorer of the stage `scores` for a clip, against the plainest loop over the same library.

    python benchmarks/scorers.py --media ../shared/clips/sintel_10s.mp4 ../shared/clips/hiker.mp4

A loop decodes the window by PyAV in this process and calls OpenCV, transformers or rapidocr on it, nothing else; it
takes a file for sound, of a constant rate, upright. The stage decodes in a child process that may hang, crash or grow,
on the film's own clock; its CPU counts. Both take turns, clip by clip, and the script ends where their scores differ
by more than 2 % (`text` in its frames: the loop reads whole pictures). Networks have random weights: CLIP's vision part
is that of ViT-B/32, the classifier a ViT-B/32. `text` takes the extra `ocr`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import av
import cv2
import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
import transformers as hf
from PIL import Image
from plain_curation import _cpu_s, _made, render, spread
from safetensors.torch import save_file

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.operator import Env, apply
from curation.schema import INGEST, status_ok, to_table
from curation.score_frames import sampled
from curation.scores import SCORES_OPERATOR, ScoresConfig

CAPTION, SAMPLES = "a dog", 8
WORDS = ["a</w>", "dog</w>", "<|startoftext|>", "<|endoftext|>"]
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
Frames = list[np.ndarray]


def window(path: Path) -> tuple[Frames, float]:
    """Frames of the first four seconds, and how many come in one."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        fps, frames = float(stream.average_rate or 0), []
        for frame in container.decode(stream):
            frames.append(frame)
            if len(frames) >= round(ScoresConfig().window_s * fps):
                break
        return frames, fps


def picked(frames: Frames) -> Frames:
    """The sampled ones, decoded to RGB."""
    return [frames[index].to_ndarray(format="rgb24") for index in sampled(len(frames), SAMPLES)]


def quality(frames: Frames, _fps: float) -> float:
    """Every frame's difference, black bars, and Laplacian, exposure and saturation within them; gives the sharpness."""
    greys = [cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY) for frame in frames]
    for before, after in pairwise(greys):
        cv2.absdiff(before, after).max()
    images, found = picked(frames), []
    lit = np.any([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > 24 for image in images], axis=0)
    rows, columns = (np.flatnonzero(lit.mean(axis) > 0.02) for axis in (1, 0))
    for image in images:
        scale = min(1.0, 512 / min(image.shape[:2]))
        within = image[rows[0] + 2 : rows[-1] - 1, columns[0] + 2 : columns[-1] - 1]
        small = cv2.resize(within, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        found.append(cv2.Laplacian(grey, cv2.CV_32F, ksize=1).var())
        grey.mean(), (grey < 6).mean(), (grey > 249).mean(), np.ptp(small, axis=2).mean()
    return float(np.mean(found))


def camera(frames: Frames, fps: float) -> float:
    """DIS and a similarity by RANSAC between frames a twentieth of a second apart; gives the share that fits."""
    flow, kept, last = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), [], -1.0
    for index, frame in enumerate(frames):
        if index / fps - last < 0.05 and kept:
            continue
        grey, last = cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY), index / fps
        scale = min(1.0, 192 / min(grey.shape))
        kept.append(
            cv2.GaussianBlur(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), (0, 0), 2.5)
        )
    fits = []
    for before, after in pairwise(kept):
        field = flow.calc(before, after, None)[4:-4:4, 4:-4:4]
        change = np.abs(cv2.Sobel(before, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(before, cv2.CV_32F, 0, 1))
        seen = change[4:-4:4, 4:-4:4] > 8 * 0.3
        at = np.stack(np.mgrid[0 : before.shape[0], 0 : before.shape[1]][::-1], -1)[4:-4:4, 4:-4:4][seen].astype(
            np.float32
        )
        fits.append(
            cv2.estimateAffinePartial2D(at, at + field[seen], method=cv2.RANSAC, ransacReprojThreshold=0.3)[1].mean()
        )
    return float(np.mean(fits))


class Networks:
    """Random weights in `folder`, and the loops over transformers that take them."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.clip_folder, self.vit_folder, self.head = folder / "clip", folder / "vit", folder / "head.safetensors"
        text = {"vocab_size": 4, "bos_token_id": 2, "eos_token_id": 3, "hidden_size": 512, "num_attention_heads": 8}
        vision = {**BASE, "image_size": 224, "patch_size": 32}
        self.clip = hf.CLIPModel(hf.CLIPConfig(projection_dim=768, vision_config=vision, text_config=text)).eval()
        self.vit = hf.ViTForImageClassification(
            hf.ViTConfig(**BASE, image_size=224, patch_size=32, id2label={0: "fine", 1: "nsfw"})
        ).eval()
        self.clip_images, self.vit_images = hf.CLIPImageProcessorPil(), hf.ViTImageProcessorPil()
        self.linear = {"weight": torch.randn(1, 768), "bias": torch.tensor([5.0])}
        tokenizer = hf.CLIPTokenizer(vocab={word: index for index, word in enumerate(WORDS)}, merges=[])
        for where, parts in (
            (self.clip_folder, (self.clip, self.clip_images, tokenizer)),
            (self.vit_folder, (self.vit, self.vit_images)),
        ):
            for part in parts:
                part.save_pretrained(where)
        save_file(self.linear, self.head)
        self.ids = torch.tensor([tokenizer(CAPTION)["input_ids"]])

    @torch.no_grad()
    def aesthetic(self, frames: Frames, _fps: float) -> float:
        """CLIP on bicubic pictures, and the head."""
        x = torch.from_numpy(np.stack(picked(frames))).permute(0, 3, 1, 2).float()
        high, wide = (int(224 * side / min(x.shape[2:])) for side in x.shape[2:])
        x = F.interpolate(x, (high, wide), mode="bicubic", align_corners=False)
        top, left = round((high - 224) / 2), round((wide - 224) / 2)
        mean, deviation = (
            torch.tensor(values)[:, None, None] for values in (self.clip_images.image_mean, self.clip_images.image_std)
        )
        x = (x[:, :, top : top + 224, left : left + 224] / 255 - mean) / deviation
        found = F.normalize(self.clip.get_image_features(pixel_values=x).pooler_output, dim=-1)
        return float(F.linear(found, self.linear["weight"], self.linear["bias"]).mean())

    @torch.no_grad()
    def caption_match(self, frames: Frames, _fps: float) -> float:
        """CLIP's logits over their scale."""
        x = self.clip_images(images=[Image.fromarray(one) for one in picked(frames)], return_tensors="pt")
        found = self.clip(input_ids=self.ids, pixel_values=x["pixel_values"])
        return float(found.logits_per_image.mean() / self.clip.logit_scale.exp())

    @torch.no_grad()
    def nsfw(self, frames: Frames, _fps: float) -> float:
        """The classifier's softmax."""
        x = self.vit_images(images=[Image.fromarray(one) for one in picked(frames)], return_tensors="pt")
        return float(self.vit(**x).logits.softmax(-1)[:, 1].mean())

    @property
    def weights(self) -> dict[str, str]:
        """As the stage gets them."""
        clip, vit = str(self.clip_folder), str(self.vit_folder)
        return {"aesthetic.weights": clip, "aesthetic.head": str(self.head), "caption_match.weights": clip,
                "nsfw.weights": vit}  # fmt: skip


def reader() -> Callable[[Frames, float], float]:
    """OCR of whole pictures as rapidocr comes, on one thread; gives the share of frames with text."""
    from rapidocr import RapidOCR

    engine = "EngineConfig.onnxruntime."
    threads = {f"{engine}intra_op_num_threads": 1, f"{engine}inter_op_num_threads": 1}
    ocr = RapidOCR(params={"Global.log_level": "critical", **threads})
    return lambda frames, _fps: float(np.mean([ocr(one[..., ::-1]).txts is not None for one in picked(frames)]))


def probed(path: Path) -> pa.Table:
    """The row of `probe`."""
    row = {"uri": str(path), "media": "video", "source": "", "caption": CAPTION, "sha256": path.name, "num_bytes": 1}
    row |= {"span_start_s": None, "span_end_s": None, "clip_id": path.name, "extra": "{}"} | status_ok()
    return apply(PROBE_OPERATOR, _made(PROBE_OPERATOR, ProbeConfig(), Env("/")), to_table([row], INGEST))


def main() -> None:
    """Print a line per scorer, or one for all of them in one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, nargs="+", help="films to take; else two are made")
    parser.add_argument("--rounds", type=int, default=3, help="how often each sees all of them")
    parser.add_argument("--only", nargs="+", help="scorers to compare")
    parser.add_argument("--together", action="store_true", help="all of them in one stage, against all loops")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks(Path(folder))
        loops: dict[str, tuple[Callable[[Frames, float], float], str]] = {
            "quality": (quality, "sharpness"),
            "camera": (camera, "camera_fit"),
            "aesthetic": (networks.aesthetic, "aesthetic"),
            "caption_match": (networks.caption_match, "caption_match"),
            "nsfw": (networks.nsfw, "nsfw"),
        }
        if find_spec("rapidocr"):
            loops["text"] = reader(), "text_frames"
        names = args.only or list(loops)
        paths = [path.resolve() for path in args.media] if args.media else render(Path(folder), 2)
        table = pa.concat_tables([probed(path) for path in paths])
        for chosen in [names] if args.together else [[name] for name in names]:
            compare(chosen, loops, paths, table, networks.weights, args.rounds)


def compare(
    names: Sequence[str], loops: Any, paths: Sequence[Path], table: pa.Table, weights: dict[str, str], rounds: int
) -> None:
    """Print the line of the scorers that are on together; SystemExit where one scores otherwise than its loop."""
    config = ScoresConfig.model_validate({"samples": SAMPLES, **{name: {} for name in names}})
    stage = _made(SCORES_OPERATOR, config, Env("/", weights))
    ours, plain = [], []
    for turn in range(rounds + 1):  # the first starts the child and loads the networks
        spent = [0.0, 0.0]
        for index, path in enumerate(paths):
            start = _cpu_s()
            [row] = apply(SCORES_OPERATOR, stage, table.slice(index, 1)).to_pylist()
            spent[0] += _cpu_s() - start
            start = _cpu_s()
            # A loop of one scorer decodes for itself.
            found = {name: loops[name][0](*window(path)) for name in names}
            spent[1] += _cpu_s() - start
            for name, value in found.items():
                if not np.isclose(row[loops[name][1]] or 0, value, rtol=0.02, atol=1e-3) and name != "text":
                    raise SystemExit(f"{path}: {name} is {row[loops[name][1]]}, and {value} by the loop")
        if turn:
            ours.append(spent[0] / len(paths))
            plain.append(spent[1] / len(paths))
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    print(
        f"{'all in one stage' if len(names) > 1 else names[0]}: {1 / np.median(ours):.2f} clips a second of CPU, "
        f"{1000 * np.median(ours):.0f} ms a clip, {'loops one after another' if len(names) > 1 else 'loop'} "
        f"{1000 * np.median(plain):.0f}; ratio {spread(ratios, '.2f')} over {rounds} rounds",
        flush=True,
    )


if __name__ == "__main__":
    main()
