"Downloads from a server that breaks off, lies, redirects and never ends; two processes at once; a disk that is full."
import errno, gzip, hashlib, os, subprocess, sys
from pathlib import Path

import pytest
from conftest import answer

from charlm import data
from charlm.data import BadInput, Remote, download, load_corpus, load_remote

TEXT = b"Speak the speech.\n" * 5000
SHA = hashlib.sha256(TEXT).hexdigest()

def cut_short(request, n):
    "Promise the whole text and send half, the first time"
    answer(TEXT[:len(TEXT) // 2] if n == 0 else TEXT, content_length=len(TEXT))(request, n)
    request.close_connection = True

def test_broken_connection_is_tried_again(server):
    assert download([server("/cut", cut_short)], SHA, wait=0.01) == TEXT
    assert server.visits["/cut"] == 1

def test_three_tries_and_no_more(server):
    url = server("/busy", answer(b"", 503))
    with pytest.raises(BadInput, match="HTTP 503"): download([url], wait=0.01)
    assert server.visits["/busy"] == 2

def test_mirrors_take_turns(server):
    gone, lies, good = server("/gone", answer(b"", 404)), server("/lies", answer(b"no")), server("/good", answer(TEXT))
    assert download([gone, lies, good], SHA, wait=0.01) == TEXT

def test_redirects_and_compression(server):
    packed = server("/packed", answer(gzip.compress(TEXT), content_encoding="gzip"))
    moved = server("/moved", answer(b"", 302, location=packed))
    assert download([moved]) == TEXT
    loop = server("/loop", answer(b"", 302, location="/loop"))
    with pytest.raises(BadInput, match="can't download"): download([loop], wait=0.01)

def test_a_bomb_is_cut_off(server):
    "The limit counts what comes out, not what goes over the wire"
    bomb = server("/bomb", answer(gzip.compress(bytes(10**7)), content_encoding="gzip"))
    with pytest.raises(BadInput, match="longer than 1,000,000 bytes"): download([bomb], max_bytes=10**6)

def test_an_address_as_corpus(server):
    url = server("/own.txt", answer("na\u00efve\r\n".encode()))
    corpus = load_corpus(url)
    assert (corpus.text, corpus.name, corpus.source) == ("na\u00efve\n", url, url)

def cached(): return data.xdg_cache_home()/"charlm"/"known.txt"

def test_kept_once_and_checked_every_time(server):
    known = Remote("known", (server("/known", answer(TEXT)),), SHA)
    assert load_remote(known).text.encode() == TEXT and cached().read_bytes() == TEXT
    load_remote(known)
    assert server.visits["/known"] == 0                            # the second time from the cache
    cached().write_bytes(TEXT[:-1])                                # a damaged copy is fetched anew
    assert load_remote(known).text.encode() == TEXT and cached().read_bytes() == TEXT
    assert server.visits["/known"] == 1

def test_nothing_wrong_is_kept(server):
    with pytest.raises(BadInput, match="is not the expected text"): load_remote(Remote("known", (server("/lies", answer(b"no")),), SHA))
    assert not cached().exists()

def test_full_disk_costs_the_copy_and_not_the_text(server, monkeypatch):
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="could not be kept in .*No space left on device"):
        corpus = load_remote(Remote("known", (server("/known", answer(TEXT)),), SHA))
    assert corpus.text.encode() == TEXT and os.listdir(cached().parent) == []

def test_two_processes_at_once(server):
    url = server("/known", answer(TEXT))
    code = f"from charlm.data import *; print(len(load_remote(Remote('known', ({url!r},), {SHA!r}))))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [p.communicate()[0] for p in running] == [f"{len(TEXT)}\n"] * 4
    assert os.listdir(cached().parent) == ["known.txt"] and cached().read_bytes() == TEXT

def test_no_network_means_the_bundled_play_and_one_warning(monkeypatch):
    monkeypatch.setattr(data, "TINY_SHAKESPEARE", Remote("tinyshakespeare", ("http://127.0.0.1:9/",), SHA))
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
    with pytest.warns(UserWarning, match="bundled play instead of Tiny Shakespeare: can't download http://127.0.0.1:9/") as caught:
        assert load_corpus().name == "bundled"
    assert len(caught) == 1
    with pytest.raises(BadInput, match="can't download"): load_corpus("tinyshakespeare")     # by name, it is an error

def test_the_data_folder_comes_first(monkeypatch):
    Path("known.txt").write_bytes(TEXT)
    monkeypatch.setenv("CHARLM_DATA", os.getcwd())
    assert load_remote(Remote("known", ("http://127.0.0.1:9/",), SHA)).source == str(Path.cwd()/"known.txt")
