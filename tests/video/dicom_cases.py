"""DICOM recordings for tests, with a patient's particulars wherever a header can hold them."""

import fractions
import io
from pathlib import Path

import av
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PLANTED = {
    "PatientName": "Doe^Planted",
    "PatientID": "PLANTED-4711",
    "PatientBirthDate": "19480229",
    "InstitutionName": "Planted Hospital",
    "ReferringPhysicianName": "Planted^Physician",
    "AccessionNumber": "PLANTEDACC",
    "StudyDescription": "planted study of Doe",
    "PatientComments": "planted comment",
}
# What no text of ours may hold of a file made by write(), plant_everywhere or a name like _Doe_.
SECRETS = ("Doe", "PLANTED", "Planted", "planted", "19480229", "48022")


def write(
    folder: Path,
    frames: np.ndarray,
    name: str = "clip.dcm",
    syntax: str = ExplicitVRLittleEndian,
    encoded: list[bytes] | None = None,
    fragments: int = 1,
    change=lambda data: None,
    **tags,
) -> str:
    """Writes frames [T, h, w(, 3)] as a multi-frame DICOM file and returns its path.

    encoded: compressed frames to store instead, each in so many fragments. change: gets the data
    set before it is written. tags: by keyword; None removes one that would be there.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    path = str(folder / name)
    little = meta.TransferSyntaxUID.is_little_endian
    data = FileDataset(path, {}, file_meta=meta, preamble=bytes(128), is_little_endian=little)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    colour = frames.ndim == 4
    bits = frames.dtype.itemsize * 8
    data.Rows, data.Columns = frames.shape[1:3]
    data.NumberOfFrames = len(frames)
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(frames.dtype.kind == "i")
    for tag, value in {"FrameTime": "40", **PLANTED, **tags}.items():
        if value is not None:
            setattr(data, tag, value)
    data.PixelData = frames.tobytes() if encoded is None else encapsulate(encoded, fragments)
    data["PixelData"].VR = "OB" if encoded is not None or bits == 8 else "OW"
    change(data)
    data.save_as(path, enforce_file_format=True)
    return path


def plant_everywhere(data: Dataset) -> None:
    """Puts planted names into all sorts of further tags: private, nested, unknown, overlays."""
    block = data.private_block(0x0009, "PLANTED CREATOR", create=True)
    block.add_new(0x01, "LO", "Doe^Planted")
    block.add_new(0x02, "UN", b"planted private bytes")
    late = data.private_block(0x7FE1, "PLANTED LATE", create=True)  # behind the pixels
    late.add_new(0x10, "UT", "planted behind the pixels")
    item = Dataset()
    item.PatientName = "Doe^Nested"
    item.CodeMeaning = "planted code"
    data.RequestAttributesSequence = Sequence([item])
    data.OtherPatientIDsSequence = Sequence([item])
    data.FrameComments = "planted frame comment"
    data.ImageComments = "planted image comment"
    data.OperatorsName = "Planted^Operator"
    data.StationName = "PLANTED"
    data.DeviceSerialNumber = "PLANTED-480229"
    data.StudyDate = data.AcquisitionDate = "19480229"
    data.WindowCenterWidthExplanation = "planted window of Doe"
    data.LUTExplanation = "planted"
    data.RescaleType = "PLANTED"
    data.StudyInstanceUID = "1.2.3.480229"
    data.file_meta.SourceApplicationEntityTitle = "PLANTED"
    data.file_meta.PrivateInformationCreatorUID = "1.2.3.480229"
    data.file_meta.PrivateInformation = b"planted meta"
    data.preamble = b"planted preamble of Doe".ljust(128, b"\0")


def without_preamble(path: str) -> str:
    """Takes the preamble and its magic off a file."""
    data = Path(path).read_bytes()
    assert data[128:132] == b"DICM"
    Path(path).write_bytes(data[132:])
    return path


def without_meta(path: str) -> str:
    """Takes preamble and meta group off a file: what is left begins with its data set."""
    data = Path(path).read_bytes()
    assert data[132:140] == b"\x02\0\0\0UL\x04\0"
    Path(path).write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    return path


def encode_stream(frames: np.ndarray, codec: str, container: str, rate: int = 25) -> bytes:
    """RGB frames [T, h, w, 3] as a video stream ("h264", "mpegts") by FFmpeg's encoders."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = fractions.Fraction(1, rate)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return target.getvalue()


def replace_bytes(path: str, old: bytes, new: bytes) -> str:
    """Overwrites a value where no writer would let one: same length, one place."""
    data = Path(path).read_bytes()
    assert len(old) == len(new) and data.count(old) == 1
    Path(path).write_bytes(data.replace(old, new))
    return path


def bare_stream(avi: str) -> bytes:
    """The pictures of an AVI on end, without its container."""
    data = Path(avi).read_bytes()
    at, end = data.index(b"movi") + 4, data.index(b"idx1")
    pieces = []
    while at + 8 <= end:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"00dc":
            pieces.append(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return b"".join(pieces)
