//! Just enough JSON to write: objects of texts, numbers and lists, in the order of the calls.

/// An object under construction.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Object {
        Object(String::from("{"))
    }

    fn key(&mut self, key: &str) -> &mut String {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        quote(&mut self.0, key);
        self.0.push(':');
        &mut self.0
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Object {
        quote(self.key(key), value);
        self
    }

    pub(crate) fn number(&mut self, key: &str, value: u64) -> &mut Object {
        self.key(key).push_str(&value.to_string());
        self
    }

    /// `value` is JSON already.
    pub(crate) fn raw(&mut self, key: &str, value: &str) -> &mut Object {
        self.key(key).push_str(value);
        self
    }

    /// `values` are JSON already.
    pub(crate) fn list(&mut self, key: &str, values: impl Iterator<Item = String>) -> &mut Object {
        let values: Vec<String> = values.collect();
        self.raw(key, &format!("[{}]", values.join(",")))
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A text by itself.
pub(crate) fn string(text: &str) -> String {
    let mut quoted = String::new();
    quote(&mut quoted, text);
    quoted
}

/// A string by RFC 8259, section 7.
fn quote(into: &mut String, text: &str) {
    into.push('"');
    for c in text.chars() {
        match c {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            c if c < ' ' => into.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => into.push(c),
        }
    }
    into.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_and_lists_nest() {
        let mut inner = Object::new();
        inner.number("n", 7);
        let mut object = Object::new();
        object.text("a\"b", "x\\y\n\u{e9}").list("l", [inner.end(), "[]".to_owned()].into_iter());
        assert_eq!(object.end(), r#"{"a\"b":"x\\y\u000aé","l":[{"n":7},[]]}"#);
        assert_eq!(Object::new().end(), "{}");
    }
}
