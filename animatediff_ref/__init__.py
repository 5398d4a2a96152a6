"""AnimateDiff (arXiv 2307.04725), as a small reference: motion modules in, out, trained, saved, measured and shown.

import animatediff_ref as ar

pipe = ar.load_base("mini", style="blob")
ar.inject(pipe.unet, ar.load_motion_module("mini"), num_frames=16)
clip = ar.animate(pipe, "a penguin", seed=0)      # uint8 (frames, height, width, 3)
"""

from animatediff_ref.checkpoints import PlainFile, load_motion_module, save_motion_module
from animatediff_ref.clips import Clip, LatentClips, encode_clips, list_clips, read_clip, write_clip
from animatediff_ref.convert import convert_file
from animatediff_ref.evaluate import flicker, flow_amount, motion_amount, object_mask, optical_flow, watermark_score
from animatediff_ref.files import FileInfo, inspect_file
from animatediff_ref.generate import UnknownWords, animate, best_device, load_base
from animatediff_ref.inflation import eject, inject, injected
from animatediff_ref.judge import (
    Judge,
    MiniCLIP,
    domain_similarity,
    frame_consistency,
    image_features,
    load_judge,
    look_score,
    nearest_centroid,
    retrieval,
    text_alignment,
    text_features,
)
from animatediff_ref.lora import (
    SkippedLayers,
    fuse_motion_loras,
    load_domain_adapter,
    load_motion_lora,
    merge_motion_loras,
    motion_loras,
    save_domain_adapter,
    save_motion_lora,
    set_domain_adapter,
    set_motion_loras,
    unload_motion_loras,
)
from animatediff_ref.mini import data_folder
from animatediff_ref.motion_module import MotionConfig, MotionModule
from animatediff_ref.objective import denoising_error, motion_scheduler, timestep_weight
from animatediff_ref.positions import sinusoidal_positions
from animatediff_ref.runsize import run_size, sized
from animatediff_ref.show import filmstrip, show, show_gallery, show_grid, xt_slice
from animatediff_ref.training import StepRecord, TrainConfig, held_out_error, train_domain_adapter, train_motion_module

__version__ = "0.1.0"
__all__ = [
    "Clip",
    "FileInfo",
    "Judge",
    "LatentClips",
    "MiniCLIP",
    "MotionConfig",
    "MotionModule",
    "PlainFile",
    "SkippedLayers",
    "StepRecord",
    "TrainConfig",
    "UnknownWords",
    "animate",
    "best_device",
    "convert_file",
    "data_folder",
    "denoising_error",
    "domain_similarity",
    "eject",
    "encode_clips",
    "filmstrip",
    "flicker",
    "flow_amount",
    "frame_consistency",
    "fuse_motion_loras",
    "held_out_error",
    "image_features",
    "inject",
    "injected",
    "inspect_file",
    "list_clips",
    "load_base",
    "load_domain_adapter",
    "load_judge",
    "load_motion_lora",
    "load_motion_module",
    "look_score",
    "merge_motion_loras",
    "motion_amount",
    "motion_loras",
    "motion_scheduler",
    "nearest_centroid",
    "object_mask",
    "optical_flow",
    "read_clip",
    "retrieval",
    "run_size",
    "save_domain_adapter",
    "save_motion_lora",
    "save_motion_module",
    "set_domain_adapter",
    "set_motion_loras",
    "show",
    "show_gallery",
    "show_grid",
    "sinusoidal_positions",
    "sized",
    "text_alignment",
    "text_features",
    "timestep_weight",
    "train_domain_adapter",
    "train_motion_module",
    "unload_motion_loras",
    "watermark_score",
    "write_clip",
    "xt_slice",
]
