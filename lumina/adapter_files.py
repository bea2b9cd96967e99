"""Names in the directory of a LoRA adapter, as the library peft lays it out. Apart, so that training reads no more."""

TENSORS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MERGED_FILE = "merged.json"
"""Beside the two files of peft: the digest of the weights that training merged the adapter into."""
NAME_PREFIX = "base_model.model."
"""Before the names of all tensors."""
