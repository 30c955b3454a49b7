"""Walking through folders of images: which files are images, what is not read, and how that is told."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from trajmatch.data.reading.source import printable
from trajmatch.data.reading.splits import listed

_READ = (
    ".png .apng .jpg .jpeg .jpe .jfif .pjpeg .pjp .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .j2c "
    ".jpc .jpf .jpx .avif .avifs .tga .pcx .qoi"
)
_ALIASES = {".pjpeg": ".jpeg", ".pjp": ".jpeg"}  # which Pillow has not in its list
# Images that are told as such where they are left out; .ico and the like decorate folders.
_IMAGES_NOT_READ = (
    ".heic .heif .hif .svg .svgz .jxl .exr .hdr .pfm .raw .cr2 .cr3 .crw .nef .nrw .arw .sr2 .dng .orf .raf .rw2 .pef "
    ".srw .x3f .psd .psb .xcf .ai .eps .pdf .ico .icns .cur .dds .dcm .dicom .nii .mha .mhd .nrrd .fits .fit .npy .npz "
    ".mat .pt .pth .sgi .rgb .rgba .ras .jxr .wdp .bpg .flif .cin .dpx .wbmp .xbm .xpm .fpx .czi .svs .ndpi "
    ".lsm .nd2 .vips .h5 .hdf .hdf5 .wmf .emf"
)
_NOT_READ = frozenset(_IMAGES_NOT_READ.split())
_SYSTEM_WORDS = (
    "__macosx __pycache__ $recycle.bin recycler recycled lost+found @eadir #recycle @recycle #snapshot "
    "@recently-snapshot found.000 thumbs thumbnails @tmp resource.frk"
)
_SYSTEM = frozenset(_SYSTEM_WORDS.split()) | {"system volume information", "network trash folder", "temporary items"}
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_SNIFFED = 1000  # files that are opened, at most, to see whether they are images under another name


@lru_cache(maxsize=1)
def readable_suffixes() -> frozenset[str]:
    """The suffixes of the images that are read, in lower case: those that this Pillow can open."""
    Image.init()
    formats = Image.registered_extensions()
    return frozenset(s for s in _READ.split() if formats.get(_ALIASES.get(s, s)) in Image.OPEN)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or the system's: trash, thumbnails, a file manager's."""
    low = name.lower()
    return name.startswith((".", "~$")) or low in _SYSTEM or low.startswith((".trash", "$recycle"))


@dataclass
class LeftOut:
    """What a reader met and did not read."""

    hidden: Counter[str] = field(default_factory=Counter)  # folders by name
    hidden_images: int = 0
    formats: Counter[str] = field(default_factory=Counter)  # files by suffix
    others: Counter[str] = field(default_factory=Counter)  # files by suffix that are no images
    disguised: int = 0
    loose: int = 0
    loops: int = 0
    special: int = 0
    broken: int = 0
    folders: list[str] = field(default_factory=list)

    def add(self, other: "LeftOut") -> None:
        """Count what another counted too."""
        for name in ("hidden", "formats", "others"):
            getattr(self, name).update(getattr(other, name))
        for name in ("hidden_images", "disguised", "loose", "loops", "special", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.folders += other.folders

    def notes(self) -> list[str]:
        """A phrase for each kind."""
        found = []
        if self.folders:
            found.append(f"{_count(len(self.folders), 'folder')} beside those that are read ({listed(self.folders)})")
        if self.hidden:
            names = listed(sorted(self.hidden))
            found.append(f"{_count(self.hidden.total(), 'hidden or system folder')} ({names})")
        if self.hidden_images:
            found.append(_count(self.hidden_images, "hidden file") + " with an image's name")
        if self.formats:
            found.append(
                f"{_count(self.formats.total(), 'image')} in formats that are not read ({_kinds(self.formats)})"
            )
        if self.loose:
            found.append(_count(self.loose, "image") + " beside the folders of classes or splits")
        if self.disguised:
            found.append(_count(self.disguised, "image") + " without an image's suffix")
        if self.others:
            found.append(f"{_count(self.others.total(), 'other file')} ({_kinds(self.others)})")
        if self.loops:
            found.append(_count(self.loops, "link") + " to a folder that is read already or lies above")
        if self.broken:
            found.append(_count(self.broken, "link") + " to nothing")
        if self.special:
            found.append(_count(self.special, "pipe or device") + " with an image's name")
        return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _kinds(suffixes: Counter[str]) -> str:
    return listed([f"{suffix or 'no suffix'} {count}" for suffix, count in suffixes.most_common()])


def subfolders(folder: Path, left: LeftOut | None = None) -> list[Path]:
    """The folders in a folder, hidden ones and the system's left out, in the order of their names."""
    found, left = [], LeftOut() if left is None else left
    with os.scandir(folder) as entries:  # which knows without asking again what is a folder
        children = sorted(Path(entry.path) for entry in entries if _is_folder(entry))
    for child in children:
        if is_hidden(child.name):
            left.hidden[printable(child.name)] += 1
        elif child.is_symlink() and (child.resolve() in (folder.resolve(), *folder.resolve().parents)):
            left.loops += 1
        else:
            found.append(child)
    return found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_special(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a pipe, a socket or a device, which could be waited on for ever. A broken link is none."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def has_images(folder: Path, deep: bool = True) -> bool:
    """Whether there is an image to be read in a folder, or at any depth below."""
    suffixes = readable_suffixes()
    with os.scandir(folder) as entries:
        for entry in entries:
            is_named = Path(entry.name).suffix.lower() in suffixes and not is_hidden(entry.name)
            if is_named and not _is_folder(entry) and not _is_special(entry):
                return True
    return deep and any(True for _ in image_files(folder))


def image_files(folder: Path, left: LeftOut | None = None) -> Iterator[Path]:
    """Images at any depth, through links to folders too. A folder is read once, and none from inside itself."""
    left = LeftOut() if left is None else left
    suffixes, real = readable_suffixes(), folder.resolve()
    seen, waiting = {real}, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
        for entry in children:
            child = Path(entry.path)
            if not _is_folder(entry):
                if not _is_read(child, suffixes, left):
                    continue
                if _is_special(entry):
                    left.special += 1
                else:
                    yield child
            elif is_hidden(entry.name):
                left.hidden[printable(entry.name)] += 1
            elif (target := child.resolve()) in seen or target in real.parents:
                left.loops += 1
            else:
                seen.add(target)
                waiting.append(child)


def count_files(folder: Path, left: LeftOut) -> None:
    """Count files that lie directly in a folder of folders: none of them is read."""
    for child in folder.iterdir():
        if not child.is_dir() and _is_read(child, readable_suffixes(), left):
            left.loose += 1


def contents(folder: Path) -> str:
    """What lies directly in a folder, for a message, in brackets; nothing where it holds folders alone."""
    there = LeftOut()
    count_files(folder, there)
    return f" ({'; '.join(there.notes())})" if there.notes() else ""


def _is_read(file: Path, suffixes: frozenset[str], left: LeftOut) -> bool:
    suffix, hidden = file.suffix.lower(), is_hidden(file.name)
    if suffix in suffixes and not hidden:
        return True
    if hidden:
        left.hidden_images += suffix in suffixes
    elif suffix in _NOT_READ or suffix in _READ.split():
        left.formats[suffix] += 1
    elif file.is_symlink() and not file.exists():
        left.broken += 1
    elif file.name.lower() not in ("thumbs.db", "desktop.ini"):
        if left.disguised + left.others.total() < _SNIFFED and _starts_as_image(file):
            left.disguised += 1
        else:
            left.others[printable(suffix)] += 1
    return False


def _starts_as_image(file: Path) -> bool:
    if not file.is_file():  # a pipe would wait for ever
        return False
    try:
        with open(file, "rb") as stream:
            start = stream.read(16)
    except OSError:
        return False
    is_bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    return start.startswith(_STARTS) or is_bitmap or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
