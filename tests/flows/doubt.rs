//! Dialogs that are in doubt near their end: what a text could not time.

use crate::neighbours::Names;
use crate::rights::{notify_for, online, play, watched};
use latimer::base::net::Transport;

/// The dialog lasts an hour, and its refresh is left out. So many seconds into it a NOTIFY comes
/// of a subscription that we do not know, with the tag of the one we do. True: the XMPP user was
/// told that his contact is gone.
fn is_shown_gone(doubted_at: u64) -> bool {
    let mut n = watched(Names::usual().settings(), 1);
    let mut seen = Vec::new();
    let mut subscribed = Vec::new();
    // It subscribes anew, where we see it.
    n.restart(Names::usual().settings());
    let mut is_left_out = false;
    for second in 0..3700 {
        n.advance(1000);
        play(&mut n, &mut seen);
        subscribed.append(&mut seen);
        if n.xmpp.iter().any(|stanza| stanza.attribute("type") == Some("probe")) {
            // As a server says of a contact it does not show.
            let answer = "<presence from='x0@chat.example' to='voip.example' type='unsubscribed'/>";
            n.xmpp.clear();
            n.send_stanza("chat.example", "voip.example", answer).expect("a stream");
            is_left_out = true;
        } else if second == doubted_at {
            let notify = subscribed.first().map(notify_for).expect("a subscription");
            let stray = notify.replace("Call-ID: ", "Call-ID: other").replace("z9hG4bK", "z9hG4bKother");
            n.send_request(Transport::Tls, None, stray.as_bytes());
        }
    }
    assert!(is_left_out);
    !online(&mut n, false).is_empty()
}

#[test]
fn a_dialog_whose_refresh_was_left_out_is_followed_by_another_though_it_is_in_doubt() {
    let shown: Vec<u64> = (3580..3640).filter(|second| is_shown_gone(*second)).collect();
    assert!(shown.is_empty(), "shown gone when in doubt after {shown:?} seconds");
}
