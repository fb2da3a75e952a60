"""Downloads from a server that breaks off, lies, dawdles, redirects and never ends;
passwords, broken environments, closed caches, full disks, two processes at once."""

import errno, gzip, hashlib, os, signal, socket, subprocess, sys, threading, time
import tracemalloc, zlib
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import answer

from charlm import corpus
from charlm.corpus import (
    BadInput,
    Remote,
    decode_text,
    download,
    fetch,
    load_corpus,
    load_remote,
    without_password,
)

TEXT = b"Speak the speech.\n" * 5000
SHA = hashlib.sha256(TEXT).hexdigest()
NOBODY = "http://127.0.0.1:9/a.txt"  # where no server listens


@pytest.fixture(autouse=True)
def own_network(monkeypatch):
    "No proxies or certificates from outside, and no pauses between tries"
    for name in list(os.environ):
        if name.upper() in corpus.NETWORK_SETTINGS:
            monkeypatch.delenv(name)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 50))


@pytest.fixture
def raw():
    "`raw(script)` calls `script(connection)` for whoever connects; returns the address"
    listeners, heard = [], []

    def serve(script):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def visit(connection):
            with suppress(OSError), connection:
                heard.append(connection.recv(10_000))
                script(connection)

        def accept():
            with suppress(OSError):
                while True:
                    visitor = listener.accept()[0]
                    threading.Thread(target=visit, args=[visitor], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.txt"

    serve.heard = heard
    yield serve
    for listener in listeners:
        listener.close()


def refused(what, *parts, load=load_corpus, **kwargs):
    "The one line with which `load(what)` is refused"
    with pytest.raises(BadInput) as caught:
        load(what, **kwargs)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 1000
    for part in parts:
        assert part in line
    return line


def fallen_back():
    "The one warning with which the bundled play is taken"
    with pytest.warns(UserWarning) as caught:
        assert load_corpus().name == "bundled"
    assert len(caught) == 1
    line = str(caught[0].message)
    start = "learning from the bundled play instead of Tiny Shakespeare: "
    assert line.isprintable() and line.startswith(start)
    return line.removeprefix(start)


# Tries and mirrors


def cut_short(request, n):
    "Promise the whole text and send half, the first time"
    body = TEXT[: len(TEXT) // 2] if n == 0 else TEXT
    answer(body, content_length=len(TEXT))(request, n)
    request.close_connection = True


def test_broken_connection_is_tried_again(server):
    assert download([server("/cut", cut_short)], SHA, wait=0.01) == TEXT
    assert server.visits["/cut"] == 1


def test_three_tries_and_no_more(server):
    url = server("/busy", answer(b"", 503))
    refused([url], "HTTP 503 Service Unavailable; check the address", load=download)
    assert server.visits["/busy"] == 2


def test_mirrors_take_turns(server):
    gone, lies = server("/gone", answer(b"", 404)), server("/lies", answer(b"no"))
    assert download([gone, lies, server("/good", answer(TEXT))], SHA, wait=0.01) == TEXT


def test_redirects_and_compression(server):
    packed = server("/packed", answer(gzip.compress(TEXT), content_encoding="gzip"))
    moved = server("/moved", answer(b"", 302, location=packed))
    assert download([moved]) == TEXT
    loop = server("/loop", answer(b"", 302, location="/loop"))
    refused([loop], "redirects more than 10 times", load=download, wait=0.01)


def test_an_address_as_corpus(server):
    url = server("/own.txt", answer("na\u00efve\r\n".encode()))
    found = load_corpus(url)
    assert (found.text, found.name, found.source) == ("na\u00efve\n", url, url)


# Time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n"


def dribble(before, piece, pause=0.03):
    "Send `piece` for ever"

    def script(connection):
        connection.sendall(before)
        while True:
            connection.sendall(piece)
            if pause:
                threading.Event().wait(pause)

    return script


DAWDLERS = {
    "body": dribble(HEAD + b"\r\n", b"a"),
    "headers": dribble(HEAD, b"x: y\r\n"),
    "first line": dribble(b"", b"H"),
    "103": dribble(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "103 in haste": dribble(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100, 0),
    "nothing": lambda connection: threading.Event().wait(3),
    "chunks": dribble(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"
    ),
    "empty blocks": dribble(
        HEAD.replace(b"1000000", b"100000000")
        + b"Content-Encoding: deflate\r\n\r\n"
        + zlib.compress(b"")[:2],
        b"\0\0\0\xff\xff" * 1000,
        0.01,
    ),
}


def transfers():
    return [t for t in threading.enumerate() if type(t) is corpus.Transfer]


@pytest.mark.parametrize("script", DAWDLERS.values(), ids=DAWDLERS.keys())
def test_the_whole_request_has_a_limit(raw, script):
    url, before, began = raw(script), transfers(), time.monotonic()
    line = refused(url, "0.3 seconds", load=fetch, seconds=0.3)
    assert "can't download http://127.0.0.1:" in line and time.monotonic() - began < 1.2
    if script is DAWDLERS["nothing"]:
        return  # ends when its own time-out does
    left = [thread for thread in transfers() if thread not in before]
    for thread in left:
        thread.join(1)  # the others notice that they may go
    assert not any(thread.is_alive() for thread in left)


def test_a_transfer_that_is_stopped_reads_no_further(server):
    transfer = corpus.Transfer(server("/a", answer(TEXT)), 10**6)
    transfer.stop()
    transfer.run()
    assert not transfer.raw
    transfer.stop()


def test_a_name_server_that_hangs(monkeypatch):
    def hang(*args, **kwargs):
        threading.Event().wait(1)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    refused("http://slow.example/a.txt", "0.2 seconds", load=fetch, seconds=0.2)
    assert time.monotonic() - began < 0.9


def test_the_limit_is_not_tried_again(raw):
    began = time.monotonic()
    refused([raw(DAWDLERS["body"])], "0.2 seconds", load=download, seconds=0.2)
    assert time.monotonic() - began < 0.6


def test_ctrl_c_ends_it_at_once(raw):
    code = "import httpx, charlm.corpus as c; print('here', flush=True); c.fetch({!r})"
    url = raw(DAWDLERS["103"])
    run = subprocess.Popen(
        [sys.executable, "-c", code.format(url)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout.readline() == "here\n"
    threading.Event().wait(0.2)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    assert run.communicate()[1].endswith("KeyboardInterrupt\n")
    assert run.returncode == -signal.SIGINT and time.monotonic() - began < 1


def test_a_bug_keeps_its_traceback(server, monkeypatch):
    def buggy(*args):
        raise ValueError("a bug")

    monkeypatch.setattr(corpus, "check_answer", buggy)
    with pytest.raises(ValueError, match="^a bug$") as caught:
        fetch(server("/a", answer(TEXT)))
    assert not isinstance(caught.value, BadInput)


# What is unpacked


def test_a_bomb_is_cut_off(server):
    "The limit counts what comes out, not what goes over the wire"
    bomb = answer(gzip.compress(bytes(10**7)), content_encoding="gzip")
    with pytest.raises(BadInput, match="longer than 1,000,000 bytes"):
        download([server("/bomb", bomb)], max_bytes=10**6)


def test_a_bomb_takes_no_memory(server):
    bomb = answer(gzip.compress(bytes(5 * 10**7)), content_encoding="gzip")
    url = server("/bomb", bomb)
    fetch(server("/a", answer(TEXT)))  # everything is imported
    tracemalloc.start()
    refused(url, "longer than 1,000,000 bytes", load=fetch, max_bytes=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


def test_too_long_is_said_before_it_comes(raw):
    url = raw(lambda c: c.sendall(HEAD.replace(b"1000000", b"9" * 15) + b"\r\na"))
    refused(url, "is longer than 500,000,000 bytes", load=fetch)


def test_the_body_of_a_redirect_is_not_read(raw, server):
    there = server("/there", answer(TEXT)).encode()
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 1000000\r\nLocation: " + there

    def script(connection):
        connection.sendall(head + b"\r\n\r\n")
        threading.Event().wait(3)

    assert fetch(raw(script), seconds=1) == TEXT


@pytest.mark.parametrize(
    "coding",
    [
        "gzip, gzip",
        "gzip,gzip",
        "deflate, gzip",
        "br",
        "zstd",
        "identity, gzip",
        "\x1b[31m",
    ],
)
def test_codings_that_were_not_asked_for(server, coding):
    packed = gzip.compress(gzip.compress(TEXT))
    url = server("/packed", answer(packed, content_encoding=coding))
    refused([url], "it comes packed as ", load=download)
    assert server.visits["/packed"] == 0  # asked once


def test_two_headers_are_two_codings(raw):
    twice = b"Content-Encoding: gzip\r\n" * 2
    url = raw(lambda c: c.sendall(HEAD + twice + b"\r\n"))
    refused(url, "it comes packed as 'gzip, gzip'", load=fetch)


GZIP = gzip.compress(TEXT)
PACKED = {
    "gzip": ("gzip", GZIP, TEXT),
    "x-gzip": ("x-gzip", GZIP, TEXT),
    "deflate": ("Deflate", zlib.compress(TEXT), TEXT),
    "identity": ("identity", TEXT, TEXT),
    "two members": ("gzip", GZIP + GZIP, TEXT * 2),
    "nothing": ("gzip", gzip.compress(b""), b""),
    "cut in the checksum": ("gzip", GZIP[:-1], "it was cut short"),
    "cut": ("gzip", GZIP[:100], "it was cut short"),
    "second member cut": ("gzip", GZIP + GZIP[:50], "it was cut short"),
    "empty": ("gzip", b"", "it was cut short"),
    "not packed": ("gzip", TEXT, "can't be unpacked"),
    "altered": ("gzip", GZIP[:-6] + b"??" + GZIP[-4:], "can't be unpacked"),
    "something after it": ("gzip", GZIP + b"extra", "can't be unpacked"),
}


@pytest.mark.parametrize("coding, body, wanted", PACKED.values(), ids=PACKED.keys())
def test_unpacking(server, coding, body, wanted):
    url = server("/packed", answer(body, content_encoding=coding))
    if isinstance(wanted, bytes):
        assert fetch(url) == wanted
    else:
        refused([url], wanted, load=download)
        assert server.visits["/packed"] == (2 if "cut" in wanted else 0)


# What is no text


@pytest.mark.parametrize("status", [201, 202, 203, 206, 226, 300, 302, 304, 401, 599])
def test_only_200_is_a_whole_text(server, status):
    url = server("/odd", answer(TEXT if status < 204 else b"", status))
    refused([url], f"can't download {url}: HTTP {status}", load=download)


def test_a_part_that_was_not_asked_for(server):
    url = server("/part", answer(TEXT[:9], 206, content_range=f"bytes 0-8/{len(TEXT)}"))
    refused(url, "HTTP 206 instead of the whole text; check the address, or use a file")


@pytest.mark.parametrize(
    "kind, body",
    [
        ("text/html", TEXT),
        ("Text/HTML; a=b", TEXT),
        ("application/xhtml+xml", TEXT),
        ("text/plain", b"<!doctype html><p>"),
        ("text/plain", b"\xef\xbb\xbf\r\n <!DOCTYPE  HTML PUBLIC"),
        ("", b"\n<HTML lang=en>"),
    ],
)
def test_a_web_page(server, kind, body):
    url = server("/page", answer(body, content_type=kind))
    refused(url, f"{url} is a web page, not a text; find the address of the text")


def test_what_only_looks_like_a_web_page(server):
    body = b"<htmlx> is no page\n"
    assert load_corpus(server("/a", answer(body, content_type="text/plain"))).text


@pytest.mark.parametrize(
    "found, words",
    [
        ("hi\n".encode("utf-16"), "the NUL at position 3 means binary data or UTF-16"),
        ("hi\n".encode("utf-16-be"), "the NUL at position 0"),
        ("hi\n".encode("utf-32-le"), "the NUL at position 1"),
        (b"a text\0", "the NUL at position 6"),
        (b"\xff\0", "the NUL at position 1"),
        (b"\xed\xa0\x80", "byte 0xed at position 0"),
    ],
)
def test_bytes_that_are_no_text(found, words):
    words = f"a.txt is not UTF-8 text: {words}"
    line = refused(found, words, load=decode_text, source="a.txt")
    assert line.endswith("; save it as UTF-8 first")


def test_a_large_text_is_in_memory_twice_at_most():
    code = (
        "import tracemalloc; from charlm.corpus import load_corpus\n"
        "tracemalloc.start(); n = len(load_corpus('a.txt'))\n"
        "print(tracemalloc.get_traced_memory()[1] / n)"
    )
    Path("a.txt").write_bytes(b"Windows\r\n" * 10**6)
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert float(out) < 2.4  # 9 / 8, twice, and what is imported


# The environment

ENVIRONMENTS = {
    "socks": ("ALL_PROXY", "socks5://127.0.0.1:1080", "socksio"),
    "no certificates": ("SSL_CERT_FILE", "/nope.pem", "No such file"),
    "bad certificates": ("SSL_CERT_FILE", __file__, ""),
    "a folder": ("SSL_CERT_FILE", "/", ""),
    "key log": ("SSLKEYLOGFILE", "/nope/k", "No such file"),
    "proxy of a kind": ("http_proxy", "foo://me:secret@bar", "foo://bar"),
    "proxy with a slash": ("http_proxy", "http://me:sec/ret@h:1", ""),
    "proxy without a name": ("HTTP_PROXY", "http://a..b:1", ""),
    "proxy is nonsense": ("http_proxy", "::::", ""),
    "proxy is gone": ("http_proxy", "http://me:secret@127.0.0.1:9", "refused"),
    "no proxy": ("NO_PROXY", "[::1", ""),
}


@pytest.mark.parametrize("name, value, words", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_an_environment_that_breaks_the_network(monkeypatch, name, value, words):
    known = Remote("tinyshakespeare", ("http://127.0.0.2:9/a.txt",), SHA)
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE", known)
    monkeypatch.setenv(name, value)
    line = refused("tinyshakespeare", words, f"check the connection and {name}, or use")
    assert line == fallen_back() and "sec" not in line and "ret@" not in line


HOSTS = [
    "http://example..com/x",
    "http://" + "a" * 64 + ".com/",
    "http://[::1/",
    "http://[zz]/",
    "http://999.1.1.1/",
    "http://xn--/",
    "http://\u200b/",
    "http://a\nb/",
    "http://h/\udce9",
    "http://127.0.0.1:bad/",
    "http://127.0.0.1:" + "9" * 500 + "/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http:///x",
    "https://",
    "HTTP://",
]


@pytest.mark.parametrize("url", HOSTS, ids=ascii)
def test_addresses_that_lead_nowhere(url):
    refused(url, "can't download ")


ELSEWHERE = [
    "file:///etc/passwd",
    "data:text/plain,hi",
    "ftp://127.0.0.1/",
    "foo:bar",
    "//[",
    "http://",
    *[h for h in HOSTS if h.isprintable()],
]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_redirects_that_lead_nowhere(server, place):
    url = server("/moved", answer(TEXT, 302, location=place.encode().decode("latin-1")))
    refused(url, f"can't download {url}: ")


def test_no_network_means_the_bundled_play_and_one_warning(monkeypatch):
    known = Remote("tinyshakespeare", (NOBODY,), SHA)
    monkeypatch.setattr(corpus, "TINY_SHAKESPEARE", known)
    assert f"can't download {NOBODY}: " in fallen_back()
    refused("tinyshakespeare", "can't download")  # by name, an error


def test_no_thread_means_the_bundled_play(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(corpus.Transfer, "start", start)
    assert "can't start new thread" in fallen_back()


@pytest.mark.parametrize("gone", [True, False])
def test_messages_that_go_nowhere(server, monkeypatch, gone):
    nowhere = open(os.devnull, "w")
    nowhere.close()
    monkeypatch.setattr(sys, "stderr", None if gone else nowhere)
    assert fetch(server("/a", answer(TEXT))) == TEXT


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals(server, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert fetch(server("/a", answer(TEXT))) == TEXT
    assert ("download" in capsys.readouterr().err) == terminal


# Passwords


def test_a_password_is_for_the_server_alone(server):
    seen = []

    def handle(request, n):
        seen.append(request.headers.get("Authorization"))
        answer(TEXT)(request, n)

    url = server("/own.txt", handle)
    found = load_corpus(url.replace("//", "//me:secret@"))
    assert (found.name, found.source) == (url, url) and seen[0].startswith("Basic ")
    assert found.text.encode() == TEXT and "secret" not in repr(found)


def test_a_password_is_not_sent_to_another_host(server, raw):
    there = raw(lambda c: c.sendall(HEAD.replace(b"1000000", b"2") + b"\r\nhi"))
    seen = []

    def handle(request, n):
        seen.append(request.headers.get("Authorization"))
        answer(b"", 302, location=there if len(seen) > 1 else "/again")(request, n)

    server("/again", handle)
    url = server("/a", handle)
    assert load_corpus(url.replace("//", "//me:secret@")).text == "hi"
    assert seen[0] == seen[1] and seen[0].startswith("Basic ")  # the same host
    assert raw.heard[-1].startswith(b"GET /a.txt")
    assert b"authorization" not in raw.heard[-1].lower()


LEAKS = {
    "404": answer(b"", 404),
    "206": answer(b"hi", 206),
    "not utf-8": answer(b"\xe9"),
    "empty": answer(b""),
    "page": answer(b"<html>"),
    "packed": answer(content_encoding="x"),
    "back": answer(b"", 302, location="//me:secret@127.0.0.1:9/"),
    "bad redirect": answer(b"", 302, location="foo://me:secret@h/"),
}


@pytest.mark.parametrize("handler", LEAKS.values(), ids=LEAKS.keys())
def test_no_message_has_a_password(server, handler):
    url = server("/a", handler)
    assert "secret" not in refused(url.replace("//", "//me:secret@"), url)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@127.0.0.1:9/",
        "http://secret@[::1/",
        "http://me:/secret@h/",
        "http://me:s/secret?secret#secret@h/",
        "HTTPS://me:@secret@h..h/",
        "ftp://me:secret@h/",
        "http:/me:secret@h/",
        "http:\\\\me:secret@h/",
        "http://:secret@/",
    ],
)
def test_no_message_has_an_odd_password(url):
    assert "secret" not in refused(url, url.rpartition("@")[2].rstrip("/"))


def test_the_hash_of_a_secret_address(server):
    url = server("/a", answer(b"no"))
    secret = url.replace("//", "//me:secret@")
    line = refused([secret], url, load=download, sha256=SHA, wait=0)
    assert "secret" not in line


def test_hiding_passwords_takes_no_time():
    began = time.monotonic()
    for text in ("a" * 10**5, "//" * 10**5, "aa:" * 10**5, "http://" + ":" * 10**5):
        assert without_password(text) == text
    assert time.monotonic() - began < 1


# The cache and the folder


def cached():
    return corpus.cache_path(Remote("known", (), SHA))


def known(server):
    return Remote("known", (server("/known", answer(TEXT)),), SHA)


def test_kept_once_and_checked_every_time(server):
    text = known(server)
    assert load_remote(text).text.encode() == TEXT and cached().read_bytes() == TEXT
    load_remote(text)
    assert server.visits["/known"] == 0  # then from the cache
    cached().write_bytes(TEXT[:-1])  # damaged
    assert load_remote(text).text.encode() == TEXT and cached().read_bytes() == TEXT
    assert server.visits["/known"] == 1


def test_nothing_wrong_is_kept(server):
    lies = Remote("known", (server("/lies", answer(b"no")),), SHA)
    refused(lies, "is not the expected text", load=load_remote)
    assert not cached().exists()


def test_full_disk_costs_the_copy_and_not_the_text(server, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="could not be kept in .*No space left"):
        found = load_remote(known(server))
    assert found.text.encode() == TEXT and os.listdir(cached().parent) == []


def not_kept(server):
    "The one warning with which a text is loaded and not kept"
    with pytest.warns(UserWarning) as caught:
        assert load_remote(known(server)).text.encode() == TEXT
    assert len(caught) == 1 and str(caught[0].message).isprintable()
    return str(caught[0].message)


@pytest.mark.parametrize(
    "folder, words",
    [
        ("/dev/null/a", "Not a directory"),
        ("/" + "a" * 300, "File name too long"),
        ("/" + "a/" * 3000, "File name too long"),
        ("/proc/a\nb", r"/proc/a\nb"),
    ],
    ids=["below a file", "name", "path", "line end"],
)
def test_a_cache_that_makes_no_sense(server, monkeypatch, folder, words):
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    assert words in not_kept(server)


def test_a_closed_cache(server, monkeypatch):
    "As after `su`: even asking is forbidden"
    path, stat = cached(), os.stat

    def closed(name, *args, **kwargs):
        if str(path.parent) in str(name):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(name, *args, **kwargs)

    monkeypatch.setattr(os, "stat", closed)
    monkeypatch.setattr(Path, "mkdir", lambda path, **kwargs: closed(path))
    assert "Permission denied" in not_kept(server)


def test_no_home(server, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which doesn't count
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert "there is no home folder" in not_kept(server)
    assert os.listdir() == []


def device(path):
    os.symlink("/dev/zero", path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, device])
def test_a_cached_copy_that_is_no_file(server, make):
    cached().parent.mkdir(parents=True)
    make(cached())
    assert "could not be kept" in not_kept(server)


def test_two_processes_at_once(server):
    url = server("/known", answer(TEXT))
    code = (
        "from charlm.corpus import *\n"
        f"print(len(load_remote(Remote('known', ({url!r},), {SHA!r}))))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [p.communicate()[0] for p in running] == [f"{len(TEXT)}\n"] * 4
    assert os.listdir(cached().parent) == ["known.txt"]
    assert cached().read_bytes() == TEXT


def test_the_data_folder_comes_first(monkeypatch):
    Path("known.txt").write_bytes(TEXT)
    monkeypatch.setenv("CHARLM_DATA", os.getcwd())
    found = load_remote(Remote("known", (NOBODY,), SHA))
    assert found.source == str(Path.cwd() / "known.txt")


FOLDERS = {
    "name": ("a" * 300, "File name too long"),
    "path": ("/" + "a/" * 3000, "File name too long"),
    "nowhere": ("/nowhere", "but there is no /nowhere/tinyshakespeare.txt"),
    "line end": ("a\nb", r"but there is no a\nb/tinyshakespeare.txt"),
    "link": ("links", "it is a link to nothing"),
    "folder": ("folders", "is a folder"),
}


@pytest.mark.parametrize("folder, words", FOLDERS.values(), ids=FOLDERS)
def test_a_data_folder_that_is_of_no_use(monkeypatch, folder, words):
    for name in ("links", "folders"):
        os.mkdir(name)
    os.symlink("nothing", "links/tinyshakespeare.txt")
    os.mkdir("folders/tinyshakespeare.txt")
    monkeypatch.setenv("CHARLM_DATA", folder)
    for source in (None, "tinyshakespeare"):
        with pytest.raises(BadInput, match="^CHARLM_DATA is '") as caught:
            load_corpus(source)
        line = str(caught.value)
        assert words in line and line.isprintable()
        assert line.endswith("; put the text there or unset CHARLM_DATA")


def test_a_closed_data_folder(monkeypatch):
    def closed(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("CHARLM_DATA", "/closed")
    monkeypatch.setattr(os, "stat", closed)
    words = "^CHARLM_DATA is '/closed': can't reach .*: Permission denied; put"
    with pytest.raises(BadInput, match=words):
        load_corpus()


# A text of one's own


def test_a_path_is_a_path():
    refused(Path("bundled"), "there is no file at bundled")
    refused(Path("http://a/b"), "there is no file at http:/a/b")
    Path("bundled").write_text("mine")
    assert load_corpus(Path("bundled")).text == "mine"
    assert load_corpus("bundled").text != "mine"


SLIPS = {
    "misspelt": ("bundle", "and no such file; did you mean 'bundled'?"),
    "missing": ("no.txt", "no text called 'no.txt', and no such file; known names are"),
    "below a file": ("file/a.txt", "no text called 'file/a.txt', and no such file"),
    "no such user": ("~nosuch/file", "no text called '~nosuch/file', and no such file"),
    "too long": ("a" * 300, "File name too long"),
    "the text itself": (TEXT.decode(), "is too long for the path of a text"),
    "NUL": ("a\0b", "can't hold the character NUL"),
    "NUL in a user": ("~a\0b", "can't hold the character NUL"),
    "half a character": ("a\ud800", "surrogates not allowed"),
    "link to nothing": ("link", "can't read link: it is a link to nothing"),
    "links in a circle": ("circle", "Too many levels of symbolic links"),
    "folder": (Path(), ". is a folder; name a text file inside it"),
    "endless": ("/dev/zero", "/dev/zero is longer than 1,000,000 bytes"),
    "line ends": ("a\nb", r"no text called 'a\nb'"),
    "empty": ("", "the text's name is empty"),
    "bytes": (b"bundled", "the text's name is b'bundled'; it must be a name such as"),
    "number": (0, "the text's name is 0"),
    "list": ([], "the text's name is []"),
}


@pytest.mark.parametrize("source, words", SLIPS.values(), ids=SLIPS.keys())
def test_slips(monkeypatch, source, words):
    Path("file").write_text("a text")
    os.symlink("nothing", "link")
    os.symlink("circle", "circle")
    monkeypatch.setattr(corpus, "MOST_PIPED", 10**6)
    refused(source, words)


def test_a_pipe_and_a_name_that_is_not_utf_8():
    os.mkfifo("pipe")
    threading.Thread(target=lambda: Path("pipe").write_text("from a pipe")).start()
    assert load_corpus("pipe").text == "from a pipe"
    Path("caf\udce9.txt").write_text("a text")
    assert load_corpus("caf\udce9.txt").text == "a text"


def test_importing_it_costs_little():
    code = "import charlm.corpus, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "httpx", "tqdm", "fastcore"} & set(loaded)
