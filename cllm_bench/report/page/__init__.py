"""The report as one page of HTML: what it shows, its pictures, and how they look.

`html` builds the page from `page.html` and `page.css`; the figures come from the rest of report/.
"""
