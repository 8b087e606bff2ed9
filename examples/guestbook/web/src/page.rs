//! The HTML page. What people wrote goes through [`Escaped`], always.

use std::fmt::{self, Display, Formatter};

use guestbook::{Digest, Entry, Invalid, Message};

/// All that the page shows.
pub struct Page {
    pub greeting: String,
    pub dyno: String,
    pub release: String,
    pub digest: Option<Digest>,
    pub query: String,
    pub entries: Vec<(u64, Entry)>,
    pub problem: Option<Problem>,
}

/// A message that was refused: the visitor gets it back to correct it.
pub struct Problem {
    pub reason: Invalid,
    pub message: Message,
}

impl Display for Page {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let style = include_str!("style.css");
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Guestbook</title>\n<style>\n{style}</style>\n\
             <header>\n<h1>Guestbook</h1>\n<p>{greeting}</p>\n</header>\n<main>\n",
            greeting = Escaped(&self.greeting),
        )?;
        self.form(f)?;
        self.list(f)?;
        f.write_str("</main>\n")?;
        self.footer(f)?;
        f.write_str("</html>\n")
    }
}

impl Page {
    fn form(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<form class=\"card\" method=\"post\" action=\"/entries\">\n")?;
        let (name, text) = match &self.problem {
            Some(Problem { reason, message }) => {
                writeln!(f, "<p class=\"problem\" role=\"alert\">{reason}</p>")?;
                (message.name.as_str(), message.text.as_str())
            }
            None => ("", ""),
        };
        write!(
            f,
            "<label>Name <input name=\"name\" value=\"{name}\" maxlength=\"40\" autocomplete=\"name\" required></label>\n\
             <label>Message <textarea name=\"text\" rows=\"3\" maxlength=\"500\" required>\n{text}</textarea></label>\n\
             <button>Sign</button>\n</form>\n",
            name = Escaped(name),
            text = Escaped(text),
        )
    }

    fn list(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<form class=\"search\" method=\"get\" action=\"/\" role=\"search\">\n\
             <input type=\"search\" name=\"q\" value=\"{query}\" placeholder=\"Search for a word\" aria-label=\"Search\">\n\
             </form>\n",
            query = Escaped(&self.query),
        )?;
        if self.entries.is_empty() {
            let text = if self.query.is_empty() {
                "Nobody has signed yet."
            } else {
                "No entry has this word."
            };
            return writeln!(f, "<p class=\"empty\">{text}</p>");
        }
        f.write_str("<ol>\n")?;
        for (number, entry) in &self.entries {
            writeln!(
                f,
                "<li class=\"card\" id=\"e{number}\"><p>{text}</p>\n\
                 <footer><b>{name}</b> <time datetime=\"{at}\">{day}</time></footer></li>",
                text = Escaped(&entry.text),
                name = Escaped(&entry.name),
                at = entry.at,
                day = entry.at.strftime("%-d %B %Y, %H:%M UTC"),
            )?;
        }
        f.write_str("</ol>\n")
    }

    fn footer(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<footer>")?;
        if let Some(digest) = &self.digest {
            write!(
                f,
                "{} entries so far, {} of them indexed · ",
                digest.written, digest.indexed
            )?;
        }
        writeln!(
            f,
            "served by {} of release {}</footer>",
            Escaped(&self.dyno),
            Escaped(&self.release)
        )
    }
}

/// Text inside HTML, as an element's content or a quoted attribute's value.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let (text, entity) = match part.as_bytes().last() {
                Some(b'&') => (&part[..part.len() - 1], "&amp;"),
                Some(b'<') => (&part[..part.len() - 1], "&lt;"),
                Some(b'>') => (&part[..part.len() - 1], "&gt;"),
                Some(b'"') => (&part[..part.len() - 1], "&quot;"),
                Some(b'\'') => (&part[..part.len() - 1], "&#39;"),
                _ => (part, ""),
            };
            write!(f, "{text}{entity}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(entries: Vec<(u64, Entry)>, problem: Option<Problem>) -> String {
        let (greeting, dyno, release) = ("Hi & welcome".into(), "web.1".into(), "v1".into());
        Page {
            greeting,
            dyno,
            release,
            digest: None,
            query: String::new(),
            entries,
            problem,
        }
        .to_string()
    }

    #[test]
    fn what_people_wrote_is_text_and_never_markup() {
        let entry = Entry {
            name: "<b>\"Ada\"</b>".into(),
            text: "<script>alert('x')</script>".into(),
            at: Default::default(),
        };
        let page = page(vec![(1, entry)], None);
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
        assert!(page.contains("<b>&lt;b&gt;&quot;Ada&quot;&lt;/b&gt;</b>"));
        assert!(!page.contains("<script"));
    }

    #[test]
    fn a_refused_message_is_given_back_to_correct() {
        let message = Message {
            name: "A\"da".into(),
            text: String::new(),
        };
        let page = page(
            Vec::new(),
            Some(Problem {
                reason: Invalid::Empty { field: "message" },
                message,
            }),
        );
        assert!(page.contains("Please fill in your message."));
        assert!(page.contains("value=\"A&quot;da\""));
    }

    #[test]
    fn an_empty_book_says_so() {
        assert!(page(Vec::new(), None).contains("Nobody has signed yet."));
    }
}
