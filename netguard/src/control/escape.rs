//! Names in the place of a request's path and query (RFC 3986 section 2.1).

/// As one segment of a path, or one value of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out += &format!("%{byte:02X}");
        }
        out
    })
}

/// The text that was encoded; what is no escape stands for itself.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('%') {
        bytes.extend(head.bytes());
        match tail.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(b'%');
                rest = tail;
            }
        }
    }
    bytes.extend(rest.bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_letter_of_a_path_is_encoded() {
        assert_eq!(encode("slot-1.a_b~"), "slot-1.a_b~");
        assert_eq!(encode("../x y?ü"), "..%2Fx%20y%3F%C3%BC");
    }

    #[test]
    fn what_is_encoded_is_read() {
        for text in ["slot1", "../x y?ü", "100%", "%zz%", "a&b=c"] {
            assert_eq!(decode(&encode(text)), text);
        }
        assert_eq!(decode("10.9.0.0/24%"), "10.9.0.0/24%");
        assert_eq!(decode("%f"), "%f");
    }
}
