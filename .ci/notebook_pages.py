"""A hook of mkdocs: shows the notebooks of docs/notebooks, with what is stored in them, as pages of the site."""

import base64
import json
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Put a page in place of each notebook; links to the notebook lead to the page."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = json.loads(file.content_string)
        name = file.src_uri.removesuffix(".ipynb")
        page, pictures = markdown(notebook, name.rpartition("/")[2])
        files.remove(file)
        files.append(File.generated(config, f"{name}.md", content=page))
        for picture, content in pictures.items():
            files.append(File.generated(config, f"{name.rpartition('/')[0]}/{picture}", content=content))
    return files


def on_page_markdown(text: str, **_: Any) -> str:
    """Lead links to notebooks to their pages."""
    return text.replace(".ipynb)", ".md)")


def markdown(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{name}-{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the cell above draws]({picture})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
