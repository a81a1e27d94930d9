"""Where the converted forms of a checkpoint lie in its folder, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path

# Raised when a form of an earlier version would give other results, or be slower.
VERSION = 6
CONVERTED = "converted"
FORM_FILE = "form.json"
MASKED_FILE = "masked.onnx"
FORM_FILES = ("model.onnx", MASKED_FILE, "model.onnx_data")
# Best first: what precision="auto" takes where a folder holds nothing else.
PRECISIONS = ("float32", "int8", "int4")


def converted_form(folder: Path, precision: str) -> Path | None:
    """Return the folder of a form that was converted ahead of time; None where there is none."""
    form = folder / CONVERTED / precision
    return form if (form / FORM_FILE).is_file() else None


def converted_precisions(folder: Path) -> list[str]:
    """Return the precisions that a checkpoint's folder holds converted forms of, best first."""
    return [precision for precision in PRECISIONS if converted_form(folder, precision)]
