"""AnimateDiff (arXiv 2307.04725), as a small reference: put motion modules into a UNet, train, save, measure and show them.

    import animatediff_ref as ar

    pipe = ar.load_base("mini", style="blob")
    ar.inject(pipe.unet, ar.load_motion_module("mini"), num_frames=16)
    clip = ar.animate(pipe, "a penguin", seed=0)      # uint8 (frames, height, width, 3)

The method is an evening's read, in this order:

1. ``method/config.py``         what distinguishes the published versions
2. ``method/temporal.py``       the temporal transformer: positions, attention, zero-initialised output (section 4.2, Eq. 5)
3. ``method/motion_module.py``  one temporal transformer for every place in a UNet
4. ``method/inflation.py``      the motion module in an unmodified UNet, and out again (section 4.2)
5. ``method/adapters.py``       low-rank adapters (Eq. 3): domain adapter (section 4.1, Eq. 4) and MotionLoRA (section 4.3)
6. ``method/objective.py``      noise schedule and objective (Eq. 1-2 for images, Eq. 6-7 for clips)
7. ``training/loop.py``         the loop that every stage shares
8. ``training/stages.py``       the stages (section 4.4)
9. ``training/run.py``          a stage from a folder of videos to a file, with presets

The other rooms: ``mini`` (the world that ships), ``weights`` (files), ``generate``, ``clips``, ``measure``, ``baselines``,
``notebook``, ``cli``.
All public names are here, ``ar.NAME``; the module that a name lives in is imported when the name is first used.
"""

from importlib import import_module

__version__ = "0.1.0"
PUBLIC = {  # module -> its public names
    "method.config": ("MotionConfig",),
    "method.temporal": ("sinusoidal_positions",),
    "method.motion_module": ("MotionModule",),
    "method.inflation": ("eject", "inject", "injected"),
    "method.adapters": (
        "fuse_motion_loras",
        "motion_loras",
        "set_domain_adapter",
        "set_motion_loras",
        "unload_motion_loras",
    ),
    "method.objective": ("denoising_error", "motion_scheduler", "timestep_weight"),
    "training.loop": ("StepRecord", "TrainConfig"),
    "training.stages": ("held_out_error", "train_domain_adapter", "train_motion_lora", "train_motion_module"),
    "training.run": ("RunConfig", "read_config", "run_stage", "weights_file"),
    "mini.files": ("data_folder",),
    "mini.results": ("read_results",),
    "weights.identify": ("FileInfo", "inspect_file"),
    "weights.motion": ("PlainFileWarning", "load_motion_module", "save_motion_module"),
    "weights.lora": (
        "LostAlphaWarning",
        "OtherModuleWarning",
        "SkippedLayersWarning",
        "load_domain_adapter",
        "load_motion_lora",
        "merge_motion_loras",
        "save_domain_adapter",
        "save_motion_lora",
    ),
    "weights.convert": ("convert_file",),
    "generate.pipeline": ("best_device", "load_base"),
    "generate.inputs": ("UnknownWordsWarning", "default_guidance"),
    "generate.animate": ("ScheduleWarning", "animate"),
    "clips.video": ("read_clip", "write_clip"),
    "clips.folders": ("ClipEntry", "list_clips"),
    "clips.check": ("ClipReport", "check_clips"),
    "clips.camera": ("camera_path", "move_camera"),
    "clips.latents": ("LatentClips", "SkippedClipsWarning", "decode_latents", "encode_clips", "encode_pixels"),
    "measure.motion": ("flicker", "flow_amount", "motion_amount", "object_mask", "optical_flow"),
    "measure.camera": ("CameraEstimate", "estimate_camera"),
    "measure.footage": ("look_score", "watermark_score"),
    "measure.clip_scores": (
        "Judge",
        "domain_similarity",
        "frame_consistency",
        "image_features",
        "load_judge",
        "text_alignment",
        "text_features",
    ),
    "measure.study": (
        "SkippedAnswersWarning",
        "UserRanking",
        "average_user_ranking",
        "read_study",
        "self_agreement",
        "write_study",
    ),
    "baselines.text2video_zero": ("text2video_zero",),
    "baselines.tune_a_video": ("redrawn", "tune_a_video", "untune"),
    "notebook.run_size": ("run_size", "sized"),
    "notebook.show": ("filmstrip", "show", "show_grid", "xt_slice"),
    "notebook.gallery": ("show_gallery",),
    "notebook.slider": ("show_slider",),
    "notebook.plots": ("plot_style",),
}
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}
_ROOMS = ("method", "mini", "weights", "generate", "clips", "training", "measure", "baselines", "notebook", "cli")
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    """Import a room, or the module of a public name, when it is first asked for (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"animatediff_ref.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'animatediff_ref' has no attribute {name!r}")
    try:
        module = import_module(f"animatediff_ref.{_MODULE_OF[name]}")
    except AttributeError as error:  # said as it is: else Python would say that the name does not exist
        raise ImportError(f"animatediff_ref.{_MODULE_OF[name]} cannot be imported: {error}") from error
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
