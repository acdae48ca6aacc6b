"""The files that ``torch.distributed.checkpoint`` writes and reads, on this machine or in an object store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, cast

from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from trainer.checkpoint.bucket import BucketPath, Location
from trainer.checkpoint.storage import StoredFile
from trainer.checkpoint.trusted import read_metadata


class CheckpointWriter(FileSystemWriter):
    """The writer of torch, which takes the checksums while it writes.

    Args:
        path: An empty directory.
    """

    def __init__(self, path: Location) -> None:
        # Nothing is copied ahead of its writing: what is on a GPU is staged, and a thread has no stream of its own.
        # A store has no file to be synchronized.
        super().__init__(str(path), sync_files=not isinstance(path, BucketPath), per_thread_copy_ahead=0)
        self._files = _Files()
        self.fs = cast(Any, self._files)
        self.path = cast(Any, path)

    @property
    def written(self) -> dict[str, StoredFile]:
        """The files that this rank wrote, by name."""
        return self._files.written

    def storage_meta(self) -> StorageMeta | None:
        """None: where a checkpoint lay when it was written is no part of it."""
        return None


class TrustedReader(FileSystemReader):
    """The reader of torch, with an unpickler that refuses what a checkpoint has no use for.

    Args:
        path: The checkpoint's directory.
    """

    def __init__(self, path: Location) -> None:
        super().__init__(str(path))
        self.fs = cast(Any, _Files())
        self.path = cast(Any, path)
        self._source = path

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata.

        Raises:
            CheckpointError: It cannot be read, or asks for something that is not admitted.
        """
        metadata = read_metadata(self._source / ".metadata")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        if not isinstance(self._source, BucketPath):
            return super()._slice_file(file, sinfo)
        # One request for a tensor, instead of one for each of the many small reads that unpacking it takes.
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))


class _Files(FileSystemBase):
    """What torch does with files, for both kinds of paths."""

    def __init__(self) -> None:
        self.written: dict[str, StoredFile] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase, None, None]:
        with path.open(mode) as file:
            if mode != "wb":
                yield file
                return
            stream = _Measured(file)
            try:
                yield stream
            except Exception as error:
                # torch's archive tells where it stands, and not that the disk is full.
                raise stream.error or error from error
        self.written[path.name] = stream.measured()

    def rename(self, path: Any, new_path: Any) -> None:
        if isinstance(path, BucketPath):
            path.move(new_path)
        else:
            path.rename(new_path)
        self.written[new_path.name] = self.written.pop(path.name)

    def mkdir(self, path: Any) -> None:
        if not isinstance(path, BucketPath):
            path.mkdir(exist_ok=True)

    def concat_path(self, path: Any, suffix: str) -> Any:
        return path / suffix

    def init_path(self, path: Any) -> Any:
        return path

    def exists(self, path: Any) -> bool:
        return bool(path.exists())

    def rm_file(self, path: Any) -> None:
        path.unlink()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class _Measured(io.IOBase):
    """A stream to write to that takes note of size, checksum and the first failure."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._checksum = hashlib.sha256()
        self._num_bytes = 0
        self.error: OSError | None = None

    def measured(self) -> StoredFile:
        return StoredFile(self._num_bytes, self._checksum.hexdigest())

    def write(self, content: Any) -> int:
        try:
            self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise
        self._checksum.update(content)
        size = memoryview(content).nbytes
        self._num_bytes += size
        return size

    def tell(self) -> int:
        return self._num_bytes

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()
