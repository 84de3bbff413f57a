import jaxdiv

project = "jaxdiv"
author = "The jaxdiv authors"
copyright = author  # noqa: A001
version = release = jaxdiv.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxdiv"
nb_execution_mode = "off"  # the tests execute the notebooks
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "alphabetical"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
