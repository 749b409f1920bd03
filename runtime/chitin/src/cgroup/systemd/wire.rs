//! D-Bus messages: marshalling of the few types that systemd's manager takes and answers with.
//!
//! Little-endian, as this machine is. Every value is aligned to its size (structures to 8), relative to the message's start;
//! header and body start at multiples of 8, so each is marshalled by itself.

use crate::util::Result;

/// The largest message that we take; the bus itself allows more, systemd's answers are tiny.
const LARGEST: usize = 1 << 20;

pub const METHOD_CALL: u8 = 1;
#[cfg(test)]
pub const METHOD_RETURN: u8 = 2;
pub const ERROR: u8 = 3;
pub const SIGNAL: u8 = 4;

/// What a unit's property may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    U32s(Vec<u32>),
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::U64(_) => "t",
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::U32s(_) => "au",
            Value::Bytes(_) => "ay",
        }
    }
}

/// A buffer that is being marshalled.
#[derive(Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub signature: String,
}

impl Body {
    pub fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        put_text(&mut self.bytes, text);
        self
    }

    pub fn boolean(mut self, value: bool) -> Self {
        self.signature.push('b');
        put_u32(&mut self.bytes, u32::from(value));
        self
    }

    pub fn u32s(mut self, values: &[u32]) -> Self {
        self.signature.push_str("au");
        put_array(&mut self.bytes, 4, |out| values.iter().for_each(|v| put_u32(out, *v)));
        self
    }

    /// `a(sv)`
    pub fn properties(mut self, properties: &[(&str, Value)]) -> Self {
        self.signature.push_str("a(sv)");
        put_array(&mut self.bytes, 8, |out| {
            for (name, value) in properties {
                align(out, 8);
                put_text(out, name);
                put_variant(out, value);
            }
        });
        self
    }

    /// `a(sa(sv))` without any: further units that systemd could start along with it.
    pub fn no_further_units(mut self) -> Self {
        self.signature.push_str("a(sa(sv))");
        put_array(&mut self.bytes, 8, |_| {});
        self
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    align(out, 4);
    out.extend(value.to_le_bytes());
}

fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, length(text.len()));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    out.extend(signature.as_bytes());
    out.push(0);
}

/// The length counts the elements, not the padding before the first.
fn put_array(out: &mut Vec<u8>, alignment: usize, elements: impl FnOnce(&mut Vec<u8>)) {
    align(out, 4);
    let at = out.len();
    out.extend([0; 4]);
    align(out, alignment);
    let start = out.len();
    elements(out);
    let bytes = length(out.len() - start).to_le_bytes();
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&bytes);
    }
}

fn put_variant(out: &mut Vec<u8>, value: &Value) {
    put_signature(out, value.signature());
    match value {
        Value::Bool(value) => put_u32(out, u32::from(*value)),
        Value::U64(value) => {
            align(out, 8);
            out.extend(value.to_le_bytes());
        }
        Value::Text(text) => put_text(out, text),
        Value::Texts(texts) => put_array(out, 4, |out| texts.iter().for_each(|t| put_text(out, t))),
        Value::U32s(values) => put_array(out, 4, |out| values.iter().for_each(|v| put_u32(out, *v))),
        Value::Bytes(bytes) => put_array(out, 1, |out| out.extend(bytes)),
    }
}

/// The header fields that messages of ours have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub serial: u32,
    pub path: String,
    pub interface: String,
    pub member: String,
    pub error_name: String,
    pub reply_to: u32,
    pub destination: String,
    pub signature: String,
}

/// A whole message.
pub fn encode(header: &Header, body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'l', header.kind, 0, 1];
    put_u32(&mut out, length(body.len()));
    put_u32(&mut out, header.serial);
    put_array(&mut out, 8, |out| {
        let mut texts = |code: u8, kind: &str, text: &str| {
            if text.is_empty() {
                return;
            }
            align(out, 8);
            out.push(code);
            put_signature(out, kind);
            if kind == "g" { put_signature(out, text) } else { put_text(out, text) }
        };
        texts(1, "o", &header.path);
        texts(2, "s", &header.interface);
        texts(3, "s", &header.member);
        texts(4, "s", &header.error_name);
        texts(6, "s", &header.destination);
        texts(8, "g", &header.signature);
        if header.reply_to != 0 {
            align(out, 8);
            out.push(5);
            put_signature(out, "u");
            put_u32(out, header.reply_to);
        }
    });
    align(&mut out, 8);
    out.extend(body);
    out
}

/// How many bytes the message has whose first 16 these are.
pub fn message_length(start: &[u8; 16]) -> Result<(usize, usize)> {
    let number = |at: usize| {
        start.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize
    };
    let (body, fields) = (number(4), number(12));
    let header = (16_usize.saturating_add(fields)).next_multiple_of(8);
    if start[0] != b'l' || start[3] != 1 || header > LARGEST || body > LARGEST {
        return Err("systemd's answer is no D-Bus message that we understand".into());
    }
    Ok((header, body))
}

/// Header and body of a whole message.
pub fn decode(message: &[u8]) -> Result<(Header, Vec<u8>)> {
    let wrong = || "systemd's answer is damaged".to_owned();
    let start: &[u8; 16] = message.first_chunk().ok_or_else(wrong)?;
    let (header_length, body) = message_length(start)?;
    let mut header = Header { kind: start[1], ..Header::default() };
    let mut reader = Reader { bytes: message.get(..header_length).ok_or_else(wrong)?, at: 8 };
    header.serial = reader.u32().ok_or_else(wrong)?;
    let end = 16_usize.saturating_add(reader.u32().ok_or_else(wrong)? as usize);
    while reader.at < end {
        reader.align(8);
        if reader.at >= end {
            break;
        }
        let code = reader.u8().ok_or_else(wrong)?;
        let signature = reader.signature().ok_or_else(wrong)?;
        match signature.as_str() {
            "u" => {
                let number = reader.u32().ok_or_else(wrong)?;
                if code == 5 {
                    header.reply_to = number;
                }
            }
            "s" | "o" | "g" => {
                let text = if signature == "g" { reader.signature() } else { reader.text() };
                let text = text.ok_or_else(wrong)?;
                match code {
                    1 => header.path = text,
                    2 => header.interface = text,
                    3 => header.member = text,
                    4 => header.error_name = text,
                    6 => header.destination = text,
                    8 => header.signature = text,
                    _ => {}
                }
            }
            _ => return Err(wrong()),
        }
    }
    let body = message.get(header_length..header_length.saturating_add(body)).ok_or_else(wrong)?;
    Ok((header, body.to_vec()))
}

/// Reads values one after the other; `None` when there is none.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Also of an object's path.
    pub fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.u8()?;
        Some(text)
    }

    pub fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.u8()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_the_specification_has_them() {
        let body = Body::default().text("a.scope").text("replace");
        assert_eq!(body.signature, "ss");
        assert_eq!(body.bytes, b"\x07\0\0\0a.scope\0\x07\0\0\0replace\0");
        let body = Body::default().properties(&[
            ("PIDs", Value::U32s(vec![7])),
            ("Delegate", Value::Bool(true)),
            ("TasksMax", Value::U64(9)),
        ]);
        // The array's length without the padding to its first structure, at 8.
        let mut expected = b"\x48\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x04\0\0\0PIDs\0\x02au\0\0\0\0\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x08\0\0\0Delegate\0\x01b\0\x01\0\0\0\0\0\0\0");
        expected.extend(b"\x08\0\0\0TasksMax\0\x01t\0\x09\0\0\0\0\0\0\0");
        assert_eq!(body.bytes, expected, "{:02x?}", body.bytes);
    }

    #[test]
    fn messages_survive() {
        let header = Header {
            kind: METHOD_CALL,
            serial: 7,
            path: "/org/freedesktop/systemd1".into(),
            interface: "org.freedesktop.systemd1.Manager".into(),
            member: "Subscribe".into(),
            destination: "org.freedesktop.systemd1".into(),
            reply_to: 3,
            signature: "s".into(),
            error_name: "x.y".into(),
        };
        let message = encode(&header, b"\x01\0\0\0a\0");
        assert_eq!(decode(&message), Ok((header, b"\x01\0\0\0a\0".to_vec())));
        for cut in 0..message.len() {
            assert!(decode(&message[..cut]).is_err(), "{cut}");
        }
    }
}
