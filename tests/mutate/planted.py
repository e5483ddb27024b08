"""A module in place of another: the import hook, for a child and for the processes it starts.

`plant_in_processes` puts a sitecustomize.py, which Python imports at its start, on the path that a
child's own children inherit: a copy of this file and a line that plants the same mutant.
"""

import importlib.util
import marshal
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType


class Planted(MetaPathFinder):
    """Imports one module from code that is not in its file."""

    def __init__(self, file: str, root: Path, code: CodeType) -> None:
        parts = Path(file).with_suffix("").parts
        self.package = parts[-1] == "__init__"
        self.module = ".".join(parts[: -1 if self.package else None])
        self.file, self.root, self.code = file, root, code

    def come_first(self) -> None:
        """Before pytest's own finder too, which takes the modules whose doctests it runs."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        sys.meta_path.insert(0, self)

    def check(self) -> None:
        """RuntimeError if the tests ran with the real module."""
        module = sys.modules.get(self.module)
        if module is not None and not isinstance(module.__loader__, _Loader):
            raise RuntimeError(f"{self.module} came from {module.__loader__}, not from the mutant")

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module:
            return None
        source = self.root / self.file
        loader = _Loader(fullname, str(source))
        loader.code = self.code
        return importlib.util.spec_from_file_location(
            fullname, source, loader=loader,
            submodule_search_locations=[str(source.parent)] if self.package else None,
        )  # fmt: skip

    def plant_in_processes(self, folder: Path) -> None:
        """Every Python that this process starts from now on imports the mutant, too."""
        folder.mkdir()
        (folder / "code").write_bytes(marshal.dumps(self.code))
        code = f"marshal.loads(Path({str(folder / 'code')!r}).read_bytes())"
        plant = f"Planted({self.file!r}, Path({str(self.root)!r}), {code}).come_first()"
        text = Path(__file__).read_text("utf-8") + f"\n\n{plant}\n"
        (folder / "sitecustomize.py").write_text(text, "utf-8")
        sys.path.append(str(folder))  # tests hand their own path on
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [inherited])])


class _Loader(SourceFileLoader):
    code: CodeType

    def get_code(self, fullname):
        return self.code
