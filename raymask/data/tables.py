"""Tables as files: CSV and the like, packed or not, and Parquet -> every value as a text, and the images of the rows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Collection, Iterable

import pandas as pd

from raymask.config.data import DataConfig
from raymask.core.errors import InputError, one_of, shortened
from raymask.data.parquet import Table, read_parquet
from raymask.data.rejected import is_image
from raymask.data.splits import TEST, part_of
from raymask.io import files

UNPACKERS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}
PARQUET = b"PAR1"
PARQUET_SUFFIXES = (".parquet", ".pq")
FOREIGN = {
    b"PK\x03\x04": "is an Excel or a ZIP file; save the table as CSV in UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "is an old Excel file; save the table as CSV in UTF-8",
    b"ARROW1": "is an Arrow file; save the table as Parquet or CSV",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it, or pack it by gzip",
    b"SQLite format 3": "is a database; save the table as CSV or Parquet",
    b"%PDF": "is a PDF file; save the table as CSV in UTF-8",
    b"\xff\xd8\xff": "is an image and no table of images; give the folder that it lies in",
    b"\x89PNG": "is an image and no table of images; give the folder that it lies in",
}
MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
UTF_8_MARK = "\ufeff"
SEPARATORS = (",", ";", "\t", "|")
NO_ID = "its id is empty"


def read_table(path: str, data: DataConfig, image_columns: Collection[str] = (), part: str | None = None) -> Table:
    """A CSV, TSV or Parquet file, or a folder of Parquet files, with every value as the text that it is.

    What a file holds is told by its content, not by its name: CSV and TSV may be packed by gzip, bzip2 or xz.

    Args:
        path: the file or folder, local or by URL.
        data: encoding and separator.
        image_columns: columns of a Parquet file that may hold images themselves.
        part: of a folder whose files are named by the parts of a split, `train` for all that are not for tests, or `test`.

    Raises:
        InputError: it is missing, empty or no table, or its encoding or separator is another.
    """
    if files.is_folder(path):
        parts = parquet_files(path, part)
        if not parts:
            raise InputError(f"'{path}' is a folder without Parquet files; give a table, or a folder of images.")
        return read_parquet(parts, image_columns)
    try:
        with files.open_file(path) as file:
            packed = file.read(len(PARQUET)) == PARQUET
        content = b"" if packed else files.read_bytes(path)
        while unpack := next((unpack for magic, unpack in UNPACKERS.items() if content.startswith(magic)), None):
            content = unpack(content)
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'.") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"'{path}' cannot be read: {files.why_unreadable(error)}.") from None
    if packed:
        return read_parquet([path], image_columns)
    text = _decoded(content, path, data)
    return Table(_parsed(text, path, data), line_end=line_end_of(text))


def line_end_of(text: str) -> str:
    r"""The end of a table's first row, `\r\n` or `\n`; one within quotes is a part of its cell.

    >>> line_end_of('"a\nb",c\r\n1,2\r\n')
    '\r\n'
    """
    quoted = False
    for mark in re.finditer(r'"|\r?\n', text):
        if mark[0] == '"':
            quoted = not quoted
        elif not quoted:
            return mark[0]
    return "\n"


def parquet_files(folder: str, part: str | None = None) -> list[str]:
    """The Parquet files that lie in a folder itself, sorted; where a part of a split is named, its alone, see `read_table`.

    Raises:
        InputError: a part is named, and files of a training and of a test part lie beside others.
    """
    names = [name for name in files.list_names(folder) if name.endswith(PARQUET_SUFFIXES) and not files.is_hidden(name)]
    parts = {name: part_of(name.rpartition(".")[0]) for name in names}
    if part and TEST in parts.values():
        if unknown := [name for name in names if parts[name] is None]:
            raise InputError(f"'{folder}' has Parquet files for tests beside {shortened(unknown)}; move those away.")
        names = [name for name in names if (parts[name] == TEST) == (part == TEST)]
    elif part == TEST:
        names = []
    return [files.join(files.absolute(folder), name) for name in names]


def _decoded(content: bytes, path: str, data: DataConfig) -> str:
    for magic, problem in {**FOREIGN, PARQUET: "is a packed Parquet file; unpack it, as Parquet is packed by itself"}.items():
        if content.startswith(magic):
            raise InputError(f"'{path}' {problem}.")
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if marked and data.encoding is None:
        raise InputError(f"'{path}' is written in {marked.upper()}; say so by --set data.encoding={marked}.")
    encoding = data.encoding or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        advice = "name its encoding by --set data.encoding=…, such as cp949 (Korean), cp1252 (Western) or gb18030 (Chinese)"
        other = advice if data.encoding is None else f"data.encoding is '{encoding}', and should be another"
        raise InputError(f"'{path}' is not written in {encoding.upper()} (see line {line}); {other}.") from None
    if _is_utf_8_after_all(content, encoding):
        raise InputError(f"'{path}' is written in UTF-8, but data.encoding is '{encoding}'; leave that out.")
    if "\0" in text:
        advice = "if it is UTF-16, say so by --set data.encoding=utf-16-le (or utf-16-be)"
        raise InputError(f"'{path}' holds NUL characters, as no CSV file does; {advice}.")
    return text.removeprefix(UTF_8_MARK)


def _is_utf_8_after_all(content: bytes, encoding: str) -> bool:
    """Whether bytes that can be read in an encoding make sense as UTF-8 too, which is no accident in more than a few letters."""
    if content.isascii():
        return False
    try:
        text = content.decode("utf-8-sig")
        same = text == content.decode(encoding).removeprefix(UTF_8_MARK)
    except UnicodeDecodeError:
        return False
    pairs = any(len(letter.encode(encoding, "ignore")) == 2 for letter in "가あ中")  # two bytes of these may be UTF-8 by accident
    letters = {letter for letter in text if not letter.isascii()}
    return not same and len(letters) >= (4 if pairs else 1)


def _parsed(text: str, path: str, data: DataConfig) -> pd.DataFrame:
    separator = data.separator or ("\t" if path.partition(".gz")[0].endswith((".tsv", ".tab")) else ",")
    header = next((line for line in text.splitlines() if line.strip()), "")
    others = [other for other in SEPARATORS if other in header]
    if separator not in header and others:
        raise InputError(f"the values of '{path}' are separated by {others[0]!r}, not by {separator!r}; {_advice(others[0])}.")
    try:
        rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None, sep=separator)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        message = str(error).strip().splitlines()[-1]
        uneven = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
        problem = "its line {1} has {2} values, and its header {0}".format(*uneven.groups()) if uneven else message
        raise InputError(f"'{path}' cannot be read as a CSV file: {problem}.") from None
    table = rows[1:].reset_index(drop=True).fillna("")  # of rows that are cut short
    table.columns = pd.Index(rows.iloc[0], dtype=object)  # pandas would rename what is there twice, or empty
    return table


def _advice(separator: str) -> str:
    named = "tab" if separator == "\t" else f"'{separator}'"
    return f'say so by --set "data.separator={named}"'


def need_columns(table: Table, columns: Iterable[str], path: str) -> None:
    """Refuses a table that lacks a column, has two of its name, or lists in it.

    Raises:
        InputError: names the file, and what it has.
    """
    header = list(map(str, table.values.columns))
    for column in columns:
        if column not in header:
            raise InputError(f"'{path}' has no column '{column}'; it has {one_of(header, column)}.")
        if header.count(column) > 1:
            raise InputError(
                f"'{path}' has {header.count(column)} columns '{column}'; give the one that is meant a name of its own."
            )
        if column in table.nested:
            raise InputError(f"column '{column}' of '{path}' holds lists or structures; it must hold one value a row.")


def images_of(table: Table, data: DataConfig, path: str, root: str | None) -> pd.DataFrame:
    """The images of a table's rows: image_id, path, size, stamp, problem.

    A row without an id goes by its number, `row 17`, and has the problem `NO_ID`. So do images in a Parquet file where no column
    of ids is named and their own names are missing or not unique.

    Args:
        table: the table.
        data: the columns of paths and ids.
        path: where the table lies.
        root: folder that relative paths start from (default: that of the table).

    Raises:
        InputError: a column is missing, or nothing in that of paths is one.
    """
    column = data.image_column
    need_columns(table, (column, *([data.id_column] if data.id_column else [])), path)
    start = files.absolute(root or files.parent(files.absolute(path)))
    names = table.images.get(column, table.values[column])
    paths = [files.join(start, name) if name else "" for name in names]
    images = pd.DataFrame({"path": paths, **files.state_columns(files.stat_files(paths))})
    if column not in table.images and len(images) and (images["problem"] != "").all():
        _check_paths(table, column, path)
    ids = table.values[data.id_column or column].tolist()
    missing = pd.Series([not name for name in ids], dtype=bool)
    if column in table.images and data.id_column is None:
        missing[:] = bool(missing.any()) or len(set(ids)) < len(ids)
    else:
        images["problem"] = images["problem"].where(~missing | (images["problem"] != ""), NO_ID)
    numbers = [f"row {row:0{len(str(len(ids)))}d}" for row in range(1, len(ids) + 1)]
    images.insert(0, "image_id", pd.Series(ids, dtype=str).mask(missing, pd.Series(numbers, dtype=str)))
    return images


def _check_paths(table: Table, column: str, path: str) -> None:
    """Refuses a column of texts, such as captions."""
    names = table.values[column]
    if names.map(is_image).any() or names.str.contains(" ").mean() <= 0.5:
        return
    header = table.values.columns
    others = [str(name) for index, name in enumerate(header) if table.values.iloc[:, index].map(is_image).mean() > 0.5]
    advice = f"the paths seem to be in column '{others[0]}'" if others else "name the column of the images' paths"
    raise InputError(
        f"column '{column}' of '{path}' holds no paths of images, but values such as '{names.iloc[0][:60]}'; {advice} "
        "(data.image_column, or --image-column of predict)."
    )
