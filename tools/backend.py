"""What `pip install` and `make wheel` build with (PEP 517): setuptools, and equal archives wherever they are made.

So anybody can build a release again and compare hashes. By itself setuptools puts into an archive when and by whom it
was built, which rights new files got there (umask), and what an earlier build has left in ``build/``.
"""

import gzip
import io
import os
import tarfile
import tempfile
import zipfile

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 # the other hooks
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

#: The earliest moment that a zip file can hold, as seconds and as a date.
EPOCH, EPOCH_DATE = 315532800, (1980, 1, 1, 0, 0, 0)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with tempfile.TemporaryDirectory() as folder:  # build/lib may hold modules that have been removed since
        settings = os.path.join(folder, "settings.cfg")
        with open(settings, "w", encoding="utf-8") as file:
            file.write("[build]\nbuild_base = %s\n" % folder)
        os.environ["DIST_EXTRA_CONFIG"] = settings
        name = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    _rewrite(os.path.join(wheel_directory, name), _rewrite_zip)
    return name


def build_sdist(sdist_directory, config_settings=None):
    name = build_meta.build_sdist(sdist_directory, config_settings)
    _rewrite(os.path.join(sdist_directory, name), _rewrite_tar)
    return name


def _rewrite(path, rewrite):
    new = path + ".new"
    rewrite(path, new)
    os.replace(new, path)


def _rewrite_zip(path, new):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in old.infolist():
            info = zipfile.ZipInfo(each.filename, EPOCH_DATE)
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(info, old.read(each))


def _rewrite_tar(path, new):
    plain = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(mode="w", fileobj=plain, format=tarfile.USTAR_FORMAT) as archive:
        for each in sorted(old.getmembers(), key=lambda member: member.name):
            info = tarfile.TarInfo(each.name)
            info.type, info.size, info.mtime = each.type, each.size, EPOCH
            info.mode = 0o755 if each.isdir() else 0o644
            archive.addfile(info, old.extractfile(each) if each.isfile() else None)
    with open(new, "wb") as file, gzip.GzipFile("", "wb", 9, file, EPOCH) as packed:
        packed.write(plain.getvalue())
