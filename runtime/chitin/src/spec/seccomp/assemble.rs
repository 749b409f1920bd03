//! A small assembler for classic BPF: far jumps by label, all of them forward.

use chitin_control::SeccompOp;

pub const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub const JGT: u16 = 0x25;
pub const JGE: u16 = 0x35;
const JA: u16 = 0x05;
const RET: u16 = 0x06;

/// The place of a jump's target, set once by [`Assembler::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

enum Item {
    Op(SeccompOp),
    Jump(Label),
}

#[derive(Default)]
pub struct Assembler {
    items: Vec<Item>,
    labels: Vec<usize>,
}

impl Assembler {
    pub fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// The label stands here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = self.items.len();
    }

    fn op(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.items.push(Item::Op(SeccompOp(code, jt, jf, k)));
    }

    /// Loads a word of the call's data.
    pub fn load(&mut self, offset: u32) {
        self.op(LD, 0, 0, offset);
    }

    pub fn and(&mut self, mask: u32) {
        self.op(AND, 0, 0, mask);
    }

    pub fn ret(&mut self, answer: u32) {
        self.op(RET, 0, 0, answer);
    }

    pub fn jump(&mut self, to: Label) {
        self.items.push(Item::Jump(to));
    }

    /// Jumps if the comparison holds.
    pub fn jump_if(&mut self, compare: u16, k: u32, to: Label) {
        self.op(compare, 0, 1, k);
        self.jump(to);
    }

    /// Jumps unless the comparison holds.
    pub fn jump_unless(&mut self, compare: u16, k: u32, to: Label) {
        self.op(compare, 1, 0, k);
        self.jump(to);
    }

    /// The program.
    pub fn finish(self) -> Vec<SeccompOp> {
        let place = |label: Label, at: usize| (self.labels[label.0] - at - 1) as u32;
        let item = |(at, item): (usize, &Item)| match item {
            Item::Op(op) => *op,
            Item::Jump(to) => SeccompOp(JA, 0, 0, place(*to, at)),
        };
        self.items.iter().enumerate().map(item).collect()
    }
}
