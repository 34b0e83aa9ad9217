"""The incident report as a page: whatever people wrote is text on it."""

from keyrotation_pipeline.incidents.report import Report, Section

HOSTILE = "</li><script>alert(\"1\")</script> & 'x'"
ESCAPED = "&lt;/li&gt;&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; &amp; &#39;x&#39;"


def test_whatever_people_wrote_is_text_on_the_page() -> None:
    sections = (Section(HOSTILE, (HOSTILE, HOSTILE)), Section("Impact", ()))
    page = Report(HOSTILE, ((HOSTILE, HOSTILE),), sections).html()
    assert (page.count(ESCAPED), page.count("<script")) == (2 + 2 + 3, 0)
    assert page.endswith(sections[0].html() + sections[1].html())
