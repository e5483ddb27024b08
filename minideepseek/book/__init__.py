"""The book: this package as pages for a browser, with nothing fetched from anywhere.

    order        which pages there are, and in which order they are read
    names        what each file defines, and where a name or a number leads
    prose        docstrings as HTML: text flows, what is indented stays as it is
    listing      code as HTML, highlighted, each name a link to its definition
    beside       what belongs to a chapter: demos, tests, exercises; pictures that demos drew
    moving       figures that move, from records of real runs
    ledger       the page of the equations
    site         the pages put together and written

Three libraries that others keep do the general work, the extra `book`: markdown-it-py reads text,
Pygments reads code, Jinja2 fills the templates. They are imported where they are used, so that the
rest of the package does without them. pdoc, the usual choice for an API, was tried: it shows
members, each with its source once more, where a file is to be read from top to bottom.

A docstring is CommonMark with few of its rules. Three conventions are the project's own, and
`prose` writes them out before a Markdown parser sees them: what is indented by four columns is a
formula, a table or a drawing, and no character of it moves; `>>>` begins an example; HTML is text.

Style and scripts are in the pages or beside them, and a Content-Security-Policy in each page
forbids everything else.
"""
