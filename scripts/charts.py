"""Write `workers/reporting/assets/vega.js`: Vega-Lite with all that it needs, in one script, as `vl-convert` bundles it.

    python -m scripts.charts

The versions are those of the locked `vl-convert-python`, so that the package that tests compile charts with and the script that
draws them in reports are the same.
"""

from pathlib import Path

import vl_convert

ASSETS = Path(__file__).resolve().parent.parent / "workers/reporting/assets"
TARGET = ASSETS / "vega.js"


def versions() -> str:
    """What is in the bundle."""
    lite = vl_convert.get_vegalite_versions()[-1]
    return f"vega {vl_convert.get_vega_version()}, vega-lite {lite}, vega-embed {vl_convert.get_vega_embed_version()}"


def bundle() -> str:
    """The script: what it is, its licences, and the bundle."""
    licences = (ASSETS / "vega.licences.txt").read_text(encoding="utf-8").strip()
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    return f"/*! {versions()}\n\n{licences}\n*/\n{script.strip()}\n"


if __name__ == "__main__":
    TARGET.write_text(bundle(), encoding="utf-8")
