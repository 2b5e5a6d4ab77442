"""HTML pages of reports: read by a parser, they say what the report says, whatever names users choose."""

import base64
import re
from html.parser import HTMLParser

import pytest

from sb3_snd.report.__main__ import report
from sb3_snd.report.html import write_html
from sb3_snd.report.markdown import code, escape, picture, table_lines

VOID = {"meta", "img", "br", "hr"}
#: names that would be more than text in Markdown or HTML
NAMES = ["a|b", "<script>alert(1)</script>", "`a``b`", "*a* _b_ c_d", "[a](javascript:b)", "&lt;", "\\|", "~~a~~", "![a](b)"]


class Page(HTMLParser):
    """Collects elements, their attributes and their text, and checks that each one is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        opened, text = self.open.pop()
        assert opened == tag
        self.elements.append((tag, "".join(text)))

    def handle_data(self, data):
        for _, text in self.open:
            text.append(data)

    def texts(self, tag):
        return [text for name, text in self.elements if name == tag]

    def attributes_of(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


def page_of(folder, lines):
    source = folder / "some.md"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_html(source, folder / "some.html")
    return Page((folder / "some.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_text(name, tmp_path):
    cells = [escape(name), code(name), 1]
    page = page_of(tmp_path, [f"# In {escape(name)}", "", f"*{escape(name)}*: {code(name)}", "", *table_lines("abc", [cells])])
    assert page.texts("h1") == page.texts("title") == [f"In {name}"]
    assert page.texts("p") == [f"{name}: {name}"] and page.texts("em") == [name]
    assert page.texts("td") == [name, name, "1"] and page.texts("th") == ["a", "b", "c"]
    assert page.texts("code") == [name, name]
    assert len(page.texts("script")) == 1 and page.attributes_of("a") == page.attributes_of("img") == []


def test_usual_names_stay_as_they_are():
    for name in ("procgen-jumper-v0", "ALE/Pong-v5", "ppo_snd_vic", "logs/ppo/Own-Env-v0_1"):
        assert escape(name) == name and code(name) == f"`{name}`" and picture("a", f"{name}.png") == f"![a]({name}.png)"


def test_html_in_a_report_is_escaped(tmp_path):
    page = page_of(tmp_path, ["# Some", "", "<img src=x onerror=alert(1)>", "", "[a](javascript:alert(1))"])
    assert page.texts("p") == ["<img src=x onerror=alert(1)>", "[a](javascript:alert(1))"]
    assert page.attributes_of("img") == page.attributes_of("a") == []


def test_a_table_scrolls_by_itself_and_its_columns_stay_aligned(tmp_path):
    page = page_of(tmp_path, ["# Some", "", *table_lines(["name", "unit", "value"], [["a", "b", "1"]])])
    (frame,) = page.attributes_of("div")
    assert frame == {"class": "table", "role": "region", "aria-label": "table", "tabindex": "0"}
    assert [cell.get("style") for cell in page.attributes_of("td")] == [None, None, "text-align:right"]


def write_run(logs, algo, env_id):
    folder = logs / algo / "some_1"
    folder.mkdir(parents=True)
    (folder / "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "' + env_id + '"}\nr,l,t\n1,10,0\n3,20,1\n')


def test_a_report_is_one_file(tmp_path):
    """Its pictures are those of the folder, and it loads nothing; a name is neither an element nor a path."""
    env_id = "<b>/x y|(1)?#%20-v0"
    write_run(tmp_path / "logs", "mine|<i>`", env_id)
    report([tmp_path / "logs"], tmp_path / "out", n_jobs=1)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    cells = page.texts("td")
    assert cells[0] == env_id and cells[1] == "mine|<i>`" and len(cells) == 9 + 5
    assert "2.00 ± 0.00" in cells
    stem = env_id.replace("/", "_")
    files = [f"{stem}_reward", f"{stem}_score"]
    images = page.attributes_of("img")
    assert [image["alt"] for image in images] == [
        f"learner's reward of an episode in {env_id}",
        f"score of an episode in {env_id}",
    ]
    for image, name in zip(images, files, strict=True):
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (tmp_path / "out" / f"{name}.png").read_bytes()
    rest = text.replace("data:image/png", "")
    assert re.findall(r"https?:|url\(|@import|<link|src=\"(?!;base64)", rest) == []
    assert page.attributes_of("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes_of("meta")
    assert "prefers-color-scheme: dark" in page.texts("style")[0] and "aria-sort" in page.texts("script")[0]
