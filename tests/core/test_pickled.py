import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from saferedir_core.pickled import TENSOR_NAMES, scan


def pickle_of(state) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    with zipfile.ZipFile(out) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def test_a_state_dict_is_read_with_its_names_and_memory():
    base = torch.arange(6.0)
    found = scan(pickle_of(OrderedDict(a=base, b=base[2:], c=torch.ones(3, dtype=torch.float16))))
    assert found.names <= TENSOR_NAMES
    assert {*found.storages} == {("0", 24), ("1", 6)}


def test_a_networks_state_dict_is_read(small):
    found = scan(pickle_of(small.state_dict()))
    assert found.names <= TENSOR_NAMES and len(found.storages) == len(small.state_dict())


def test_several_pickles_in_a_row_are_read_one_by_one():
    content = pickle.dumps([1], 2) + pickle.dumps({"a": (2, 3)}, 2)
    first = scan(content)
    assert scan(content, first.end).end == len(content)


@pytest.mark.parametrize("change", [{"offset": 4}, {"size": 6}, {"stride": 1 << 40}, {"stride": -1}])
def test_a_tensor_that_reaches_beyond_its_memory_is_refused(change):
    place = {"offset": 3, "size": 3, "stride": 1, **change}

    class Claim:
        def __reduce__(self):
            size, stride = (place["size"],), (place["stride"],)
            return torch._utils._rebuild_tensor_v2, (base.untyped_storage(), place["offset"], size, stride, False, None)

    base, out = torch.arange(6.0), io.BytesIO()
    pickler = pickle.Pickler(out, 2)
    pickler.persistent_id = lambda thing: ("storage", torch.FloatStorage, "0", "cpu", 6) if isinstance(
        thing, torch.UntypedStorage) else None
    pickler.dump(Claim())
    with pytest.raises(ValueError, match="a tensor"):
        scan(out.getvalue())


@pytest.mark.parametrize("protocol", range(4))
def test_names_are_found_and_nothing_is_called(protocol):
    assert any(name.endswith(" print") for name in scan(pickle.dumps(print, protocol)).names)


def test_computed_names_are_found():
    assert scan(pickle.dumps(print, 4)).names == {"?"}


def bomb(levels: int) -> bytes:
    """A dict whose key is a tuple of twice the same tuple, and so on: ten bytes a level, 2 ** levels things to hash."""
    code = b"\x80\x02}(K\x01q\x00"
    for level in range(levels):
        code += b"h%ch%c\x86q%c" % (level, level, level + 1)
    return code + b"K\x01u."


def test_tuples_that_contain_each_other_are_refused():
    with pytest.raises(ValueError, match="a tuple of more than 10000 things"):
        scan(bomb(60))


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02}", b"\x80\x02u.", b"\x80\x020.", b"\x80\x02h\x05.",
                                     b"\x80\x02(q\x00.", b"\x80\x02K\x01Q.", b"not a pickle"])
def test_nonsense_is_a_value_error(content):
    with pytest.raises(ValueError):
        scan(content)


def test_a_number_no_tensor_has_is_refused():
    with pytest.raises(ValueError, match="the number"):
        scan(pickle.dumps(1 << 80, 2))


def test_memory_with_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="memory that is named"):
        scan(b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuJ\xff\xff\xff\xfftQ.")
