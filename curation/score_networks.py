"""Networks that score frames: CLIP with LAION's aesthetic head, CLIP or SigLIP for captions, an image classifier.

Each is a function of the sampled frames [S, H, W, 3] of a clip and of its caption, and gives the columns it measures;
but for `embedding`, which gives a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lumina.pretrained import Place, local_folder, locate

Frames = NDArray[np.uint8]
Scorer = Callable[[Frames, str], dict[str, Any]]

_PROCESSOR = "preprocessor_config.json"


def aesthetic(weights: str, head: str, device: str) -> Scorer:
    """LAION's score of each frame, about 0 to 10, as VBench computes it before it divides by 10.

    Args:
        weights: CLIP ViT-L/14, as `lumina.vbench.networks.clip.load_clip` takes it; errors as there.
        head: LAION's linear head.
        device: of CLIP.

    Raises ValueError for another CLIP, whose embeddings the head does not know.
    """
    from lumina.vbench.networks.aesthetic import WIDTH, load_aesthetic_head
    from lumina.vbench.networks.clip import load_clip

    clip = load_clip(weights if Path(weights).is_file() else local_folder(weights), device)
    linear, width = load_aesthetic_head(head), clip.model.config.projection_dim
    if width != WIDTH:
        raise ValueError(
            f"scores.aesthetic.weights ({weights}) gives embeddings of {width} numbers, and LAION's head scores those "
            f"of CLIP ViT-L/14, which have {WIDTH}: give hf:openai/clip-vit-large-patch14"
        )

    def score(frames: Frames, _caption: str) -> dict[str, Any]:
        scores = linear.scores(clip.images(frames))
        return {"aesthetic": float(scores.mean()), "aesthetic_min": float(scores.min())}

    return score


def caption_match(weights: str, device: str) -> Scorer:
    """Cosine of the caption and each frame by CLIP or SigLIP, -1..1; null without a caption.

    Frames go in as the model's own image processor makes them; where its folder has none, squashed to its square. A
    caption of more tokens than the network takes is cut.

    Raises FileNotFoundError or ValueError if there is no such model.
    """
    from transformers import AutoModel, AutoTokenizer

    place = locate(weights, "CLIP or SigLIP", ("config.json", "model*.safetensors", "tokenizer*"))
    network = _loaded(place, AutoModel, device)
    if not hasattr(network, "get_text_features"):
        raise ValueError(
            f"scores.caption_match.weights ({weights}) is a {type(network).__name__}, which has no features of texts: "
            "give a CLIP or a SigLIP"
        )
    with place.explained():
        tokenizer: Any = AutoTokenizer.from_pretrained(place.folder, trust_remote_code=False, local_files_only=True)
    prepare, most = _preparation(place, network), network.config.text_config.max_position_embeddings
    # SigLIP was trained on padded texts, and reads the last token; a token of CLIP sees none after it.
    padding = "max_length" if network.config.model_type.startswith("siglip") else False

    @torch.no_grad()
    def score(frames: Frames, caption: str) -> dict[str, Any]:
        if not caption.strip():
            return {"caption_match": None, "caption_match_min": None}
        ids = tokenizer(caption, truncation=True, max_length=most, padding=padding, return_tensors="pt")["input_ids"]
        text = network.get_text_features(input_ids=ids.to(device)).pooler_output
        images = network.get_image_features(pixel_values=prepare(frames).to(device)).pooler_output
        cosines = F.cosine_similarity(images.float(), text.float()).cpu()
        return {"caption_match": float(cosines.mean()), "caption_match_min": float(cosines.min())}

    return score


def embedding(weights: str, device: str) -> Callable[[Frames], NDArray[np.float32]]:
    """Mean of the unit embeddings of a clip's frames [S, H, W, 3] by CLIP or SigLIP, [width]; frames go in as for
    `caption_match`.

    Raises FileNotFoundError or ValueError if there is no such model.
    """
    from transformers import AutoModel

    place = locate(weights, "CLIP or SigLIP", ("config.json", "model*.safetensors"))
    network = _loaded(place, AutoModel, device)
    if not hasattr(network, "get_image_features"):
        raise ValueError(
            f"duplicates.semantic.weights ({weights}) is a {type(network).__name__}, which embeds no images: give a "
            "CLIP or a SigLIP"
        )
    prepare = _preparation(place, network)

    @torch.no_grad()
    def embed(frames: Frames) -> NDArray[np.float32]:
        found = network.get_image_features(pixel_values=prepare(frames).to(device)).pooler_output
        mean: NDArray[np.float32] = F.normalize(found.float(), dim=-1).mean(dim=0).cpu().numpy()
        return mean

    return embed


def nsfw(weights: str, label: str, device: str) -> Scorer:
    """Probability of the classifier's `label` for each frame, 0..1.

    Raises FileNotFoundError or ValueError if there is no such classifier, or it has no label of that name.
    """
    from transformers import AutoModelForImageClassification

    place = locate(weights, "an image classifier", ("config.json", _PROCESSOR, "model*.safetensors"))
    network = _loaded(place, AutoModelForImageClassification, device)
    labels = {str(name).lower(): int(index) for index, name in network.config.id2label.items()}
    if label.lower() not in labels:
        raise ValueError(
            f"scores.nsfw.weights ({weights}) has no label {label!r}: scores.nsfw.label may be {', '.join(labels)}"
        )
    index, prepare = labels[label.lower()], _preparation(place, network)

    @torch.no_grad()
    def score(frames: Frames, _caption: str) -> dict[str, Any]:
        logits = network(pixel_values=prepare(frames).to(device)).logits.float().cpu()
        found = logits.softmax(dim=-1)[:, index]
        return {"nsfw": float(found.mean()), "nsfw_max": float(found.max())}

    return score


def _loaded(place: Place, kind: Any, device: str) -> Any:
    with place.explained():
        network, info = kind.from_pretrained(
            place.folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    place.check(network.state_dict().keys(), info, more_is_fine=True)
    return network.to(device).eval().requires_grad_(False)


def _preparation(place: Place, network: Any) -> Callable[[Frames], Tensor]:
    """From frames uint8 [S, H, W, 3] to what the network takes, float32 [S, 3, h, w]."""
    from transformers import AutoImageProcessor, CLIPImageProcessorPil

    # Pillow whether or not torchvision is there, whose resampling differs.
    if (place.folder / _PROCESSOR).is_file():
        with place.explained():
            processor: Any = AutoImageProcessor.from_pretrained(
                place.folder, trust_remote_code=False, local_files_only=True, backend="pil"
            )
    else:
        side = network.config.vision_config.image_size
        processor = CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)

    def prepare(frames: Frames) -> Tensor:
        images = [Image.fromarray(frame) for frame in frames]
        pixels: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels

    return prepare
