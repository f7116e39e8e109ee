//! The rules that the gateway is held to: transactions, dialogs, routes, diagnoses
//! (RFC 3261 sections 8, 12, 16 and 17).

use super::{Dialog, Heard};
use crate::message::Message;

impl Heard {
    pub(super) fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    pub(super) fn check_response(&mut self, response: &Message) {
        let branch = response.branch().to_string();
        let Some(sent) = self.sent.get_mut(&branch) else {
            return self.fault(format!("it answers nothing of ours: {}", response.first));
        };
        let (status, what) = (response.status(), format!("{} to {} {}", response.first, sent.method, sent.target));
        let mut faults = Vec::new();
        if response.link != sent.link {
            faults.push("came on another connection".to_string());
        }
        let vias = response.list("via");
        let same = vias.len() == sent.vias.len()
            && vias
                .iter()
                .zip(&sent.vias)
                .enumerate()
                .all(|(n, (have, want))| have == want || n == 0 && have.starts_with(want));
        let vias_of_one = sent.vias[..1] == vias[..];
        let of_cancel = response.method() == "CANCEL" && vias_of_one;
        if !same && !of_cancel {
            faults.push(format!("has Via {vias:?}, wanted {:?}", sent.vias));
        }
        if response.field("from") != sent.from || response.field("call-id") != sent.call {
            faults.push(format!("has From {} and Call-ID {}", response.field("from"), response.field("call-id")));
        }
        if response.cseq() != sent.cseq || !["CANCEL", sent.method.as_str()].contains(&response.method()) {
            faults.push(format!("has CSeq {}", response.field("cseq")));
        }
        if !response.field("to").starts_with(&sent.to) || status > 100 && response.tag("to").is_empty() {
            faults.push(format!("has To {}, wanted {} with a tag", response.field("to"), sent.to));
        }
        if status >= 200 && response.method() == sent.method {
            sent.finals += 1;
            if sent.finals > 1 && !(sent.method == "INVITE" && status < 300) {
                faults.push("is a second final response".into());
            }
        }
        if status >= 400 {
            let public = response.all("ms-diagnostics-public");
            if public.len() != 1 || !response.field("ms-diagnostics").is_empty() {
                faults.push(format!("has {} ms-diagnostics-public", public.len()));
            } else if !sound_diagnosis(&public[0]) {
                faults.push(format!("has ms-diagnostics-public {}", public[0]));
            }
        }
        if response.method() != sent.method {
            // The answer to a CANCEL has the branch of the INVITE.
            return self.faults.extend(faults.into_iter().map(|fault| format!("{what} {fault}")));
        }
        let is_first = !sent.record_routes.is_empty() && matches!(&*sent.method, "INVITE" | "SUBSCRIBE");
        if is_first && (200..300).contains(&status) {
            if response.list("record-route") != sent.record_routes {
                faults.push(format!("has Record-Route {:?}", response.list("record-route")));
            }
            if response.uri("contact").is_empty() {
                faults.push("has no Contact".into());
            }
            let call = sent.call.clone();
            if let Some(dialog) = self.dialogs.get_mut(&call) {
                dialog.remote_tag = response.tag("to").into();
                dialog.remote = response.field("to").into();
                dialog.remote_target = response.uri("contact").into();
            }
        }
        self.faults.extend(faults.into_iter().map(|fault| format!("{what} {fault}")));
    }

    pub(super) fn check_request(&mut self, request: &Message) {
        let method = request.method().to_string();
        let mut faults = Vec::new();
        let via = request.field("via");
        if !via.starts_with("SIP/2.0/TLS ")
            || !request.branch().starts_with("z9hG4bK")
            || request.list("via").len() != 1
        {
            faults.push(format!("has Via {via}"));
        }
        if request.field("max-forwards").parse::<u8>().is_err() || request.tag("from").is_empty() {
            faults.push("lacks Max-Forwards or a From tag".into());
        }
        if request.field("cseq").split_whitespace().nth(1) != Some(&method) || request.field("call-id").is_empty() {
            faults.push(format!("has CSeq {} and Call-ID {}", request.field("cseq"), request.field("call-id")));
        }
        if !self.branches.insert(format!("{} {method}", request.branch())) {
            faults.push("was sent twice over TLS".into());
        }
        let refused_ack = method == "ACK" && self.refused.contains(request.branch());
        if request.tag("to").is_empty() {
            if matches!(&*method, "INVITE" | "SUBSCRIBE") && request.uri("contact").is_empty() {
                faults.push("has no Contact".into());
            }
        } else if !refused_ack && method != "CANCEL" {
            match self.dialogs.get_mut(request.field("call-id")) {
                None => faults.push("is of a dialog that is not there".into()),
                Some(dialog) => faults.extend(dialog.check(request)),
            }
        }
        self.faults.extend(faults.into_iter().map(|fault| format!("{} {fault}", request.first)));
    }
}

/// `ID;reason="..."`, with no source and nobody's inner name.
fn sound_diagnosis(value: &str) -> bool {
    let (id, rest) = value.split_once(';').unwrap_or((value, ""));
    id.trim().parse::<u32>().is_ok()
        && rest.trim().starts_with("reason=\"")
        && !rest.contains("source=")
        && !rest.contains("gw.")
        && !rest.contains("127.")
}

impl Dialog {
    fn check(&mut self, request: &Message) -> Vec<String> {
        let mut faults = Vec::new();
        if self.remote_tag.is_empty() {
            // A NOTIFY may overtake the answer to the SUBSCRIBE.
            self.remote_tag = request.tag("from").into();
        }
        if request.tag("to") != self.local_tag || request.tag("from") != self.remote_tag {
            faults.push(format!("has From {} and To {}", request.field("from"), request.field("to")));
        }
        if request.list("route") != self.routes {
            faults.push(format!("has Route {:?}, wanted {:?}", request.list("route"), self.routes));
        }
        if request.target() != self.target {
            faults.push(format!("is not to {}", self.target));
        }
        match (request.method(), self.remote_cseq) {
            ("ACK", _) => {}
            (_, Some(last)) if request.cseq() <= last => {
                faults.push(format!("has CSeq {} after {last}", request.cseq()))
            }
            (_, _) => self.remote_cseq = Some(request.cseq()),
        }
        faults
    }
}
