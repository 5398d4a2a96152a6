"""What a reader is told about each personalised model; its card repeats it."""

from typing import NamedTuple


class Page(NamedTuple):
    """What the page of a model says."""

    title: str
    about: str
    prompts: tuple[str, ...]
    artwork: str
    licence: str


PAGES = {
    "blob": Page(
        "Blob",
        "The soft, gum-drop look of the first Noto emoji. A LoRA on the UNet's attentions and convolutions, trained on 102 "
        "drawings over the eight backgrounds.",
        ("a penguin, snow", "a baby chick, meadow", "an octopus, beach", "a ghost, night sky"),
        "Noto Emoji, first design (blobs), Google LLC",
        "Apache-2.0",
    ),
    "emojione": Page(
        "EmojiOne",
        "Flat colours with crisp two-tone shading, from the second EmojiOne set. A LoRA on the UNet's attentions and "
        "convolutions, trained on 101 drawings over the eight backgrounds.",
        ("a fox, meadow", "a rocket, night sky", "a birthday cake, white background", "a snail, desert"),
        "EmojiOne 2.3, the EmojiOne project",
        "CC BY 4.0",
    ),
    "flat": Page(
        "Flat",
        "Large plain shapes without outlines or gloss: Microsoft's Fluent emoji in their flat cut. A LoRA on the UNet's "
        "attentions and convolutions, trained on 102 drawings over the eight backgrounds.",
        ("a cat face, sunset", "a turtle, beach", "a tractor, meadow", "a crab, white background"),
        "Fluent Emoji Flat, Microsoft Corporation",
        "MIT",
    ),
    "ink": Page(
        "Ink",
        "Black glyphs on grey paper: even the background loses its colour. A LoRA on the UNet's attentions and convolutions, "
        "trained on Microsoft's high-contrast emoji over backgrounds in grey.",
        ("a bat, night sky", "a racing car, white background", "a spider, desert", "a butterfly, meadow"),
        "Fluent Emoji High Contrast, Microsoft Corporation",
        "MIT",
    ),
    "openmoji": Page(
        "OpenMoji",
        "Even black outlines around plain fills, the house style of the OpenMoji project. A LoRA on the UNet's attentions and "
        "convolutions, kept with its artwork in a folder under its own ShareAlike licence.",
        ("a dog face, meadow", "a dolphin, beach", "a snowman, snow", "a snake, desert"),
        "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
        "CC BY-SA 4.0",
    ),
    "pip": Page(
        "Pip",
        "One character: a small, round, one-eyed monster with horns and a striped belly. Made as DreamBooth makes them, from six "
        "drawings and the base's own pictures of all else, which keep it from forgetting; saved as a LoRA.",
        ("a pip monster, snow", "a pip monster, beach", "a pip monster, night sky", "a penguin, snow"),
        "drawn by data/recipes/art/character.py",
        "Apache-2.0",
    ),
    "pixel": Page(
        "Pixel",
        "Large square pixels and few colours, as on an old screen. A fine-tune of the whole UNet and text encoder, "
        "in one file of the layout that such models are traded in, its matrices rounded to eight bits.",
        ("a robot, night sky", "a dragon, sunset", "a bomb, white background", "a unicorn, meadow"),
        "Noto Emoji, Google LLC, in blocks of two by two pixels",
        "Apache-2.0",
    ),
    "sepia": Page(
        "Sepia",
        "Old photographs: everything in browns. A textual inversion: four word vectors that were searched for, while the model itself "
        "stayed as it was.",
        ("an alarm clock, white background", "a sailboat, sunset", "an owl, night sky", "a tornado, desert"),
        "Noto Emoji, Google LLC, in one scale of browns",
        "Apache-2.0",
    ),
}
