"""The ONNX files that eight packages bring along, asked with sound, text and pictures as these packages would ask them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .case import Array, Case, Example, Unavailable

RATE, WINDOW, CONTEXT = 16_000, 512, 64
"""Silero's sound: samples a second, samples of a window, and of the one before that are put in front of it."""
PITCH_RATE, PITCH_SAMPLES = 22_050, 43_844
MAGIKA_BYTES, MAGIKA_PADDING = 1024, 256


def cases() -> list[Case]:
    """Return a case for each file."""
    return [*_sound(), *_pictures(), *_text()]


def _case(name: str, file: str, inputs: Mapping[str, Any], example: Example = "golden") -> Case:
    """Return the case of a file that a package installs."""

    def write(folder: Path) -> None:
        places = [Path(place) / file for place in sys.path if (Path(place) / file).is_file()]
        if not places:
            raise Unavailable(f"{file.partition('/')[0]} is not installed")
        shutil.copyfile(places[0], folder / "model.onnx")

    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    return Case(name, "packages", write, arrays, example)


def _sound() -> list[Case]:
    state = np.zeros((2, 1, 128), np.float32)
    speech = {"input": _voice(1), "state": state}
    rated = speech | {"sr": np.int64(RATE)}
    two = {"input": _voice(2), "state": np.zeros((2, 2, 128), np.float32), "sr": np.int64(RATE)}
    row = {"input": _voice(6), "h": state[:1], "c": state[:1]}
    chord = {"serving_default_input_2:0": _chord()}
    folder = "silero_vad/data/"
    return [
        _case("silero_vad", f"{folder}silero_vad.onnx", rated),
        _case("silero_vad_op15", f"{folder}silero_vad_16k_op15.onnx", two),
        _case("silero_vad_op18_ifless", f"{folder}silero_vad_op18_ifless.onnx", rated, "input_example"),
        _case("silero_vad_sequence", f"{folder}silero_vad_16k_sequence.onnx", row),
        _case("silero_vad_half", f"{folder}silero_vad_half.onnx", speech, "input_example"),
        _case("silero_vad_openvino", f"{folder}silero_vad_openvino_16k.onnx", speech, "none"),
        _case("basic_pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", chord),
    ]


def _pictures() -> list[Case]:
    grey, page = _line(64, 160), _colours(_line(96, 192))
    line, small = _colours(_line(48, 192)), _colours(_line(48, 192))
    rapid, older = "rapidocr/models/", "rapidocr_onnxruntime/models/"
    return [
        _case("ddddocr", "ddddocr/common.onnx", {"input1": grey}),
        _case("ddddocr_older", "ddddocr/common_old.onnx", {"input1": grey}, "none"),
        _case("ddddocr_detection", "ddddocr/common_det.onnx", {"images": _colours(_line(416, 416)) * 255}),
        _case("nudenet", "nudenet/320n.onnx", {"images": _colours(_line(320, 320))}),
        _case("rapidocr_detection", f"{rapid}PP-OCRv6_det_small.onnx", {"x": page}),
        _case("rapidocr_recognition", f"{rapid}PP-OCRv6_rec_small.onnx", {"x": line}),
        _case("rapidocr_direction", f"{rapid}ch_ppocr_mobile_v2.0_cls_mobile.onnx", {"x": small}),
        _case("rapidocr_onnxruntime_detection", f"{older}ch_PP-OCRv4_det_infer.onnx", {"x": page}),
        _case("rapidocr_onnxruntime_recognition", f"{older}ch_PP-OCRv4_rec_infer.onnx", {"x": line}),
        _case("rapidocr_onnxruntime_direction", f"{older}ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": small}),
    ]


def _text() -> list[Case]:
    source = Path(__file__).read_bytes()
    head, tail = (np.frombuffer(part, np.uint8) for part in (source[:MAGIKA_BYTES], source[-MAGIKA_BYTES:]))
    short = np.full(MAGIKA_BYTES, MAGIKA_PADDING)
    short[:2] = list(b"{}")
    files = np.stack([np.concatenate([head, tail]), np.concatenate([short, short])]).astype(np.int32)
    letters = np.array([[5, 12, 20, 33, 7, 2, 0, 0]])
    points = {"char_inputs": letters, "diac_inputs": np.zeros_like(letters), "input_lengths": np.array([6])}
    return [
        _case("magika", "magika/models/standard_v3_3/model.onnx", {"bytes": files}),
        _case("piper_hebrew", "piper/hebrew/nakdimon.onnx", {"input_1": letters.astype(np.float32)}),
        _case("piper_arabic", "piper/tashkeel/model.onnx", points),
    ]


def _voice(windows: int) -> Array:
    """Return windows of a hum with overtones that grows louder, each with its context in front."""
    at = np.arange(windows * WINDOW + CONTEXT) / RATE
    hum = sum(np.sin(2 * np.pi * 120 * tone * at) / tone for tone in range(1, 9))
    sound = (hum * np.linspace(0.02, 0.2, at.size)).astype(np.float32)
    return np.stack([sound[at : at + CONTEXT + WINDOW] for at in range(0, windows * WINDOW, WINDOW)])


def _chord() -> Array:
    at = np.arange(PITCH_SAMPLES) / PITCH_RATE
    sound = sum(np.sin(2 * np.pi * pitch * at) for pitch in (261.6, 329.6, 392.0)) / 4
    return np.asarray(sound, np.float32).reshape(1, PITCH_SAMPLES, 1)


def _line(height: int, width: int) -> Array:
    """Return a grey picture of a line of text, between 0 and 1."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("L", (width, height), 255)
    ImageDraw.Draw(picture).text((6, height // 4), "Zoo 4711", 0, ImageFont.load_default(min(height, 80) / 2))
    return (np.asarray(picture, np.float32) / 255).reshape(1, 1, height, width)


def _colours(grey: Array) -> Array:
    """Return a grey picture in three colours."""
    return np.repeat(grey, 3, axis=1)
