//! The demo is what a newcomer runs first: its conversation has to arrive.

use std::process::Command;

#[test]
fn the_conversation_of_the_demo_arrives_and_is_shown() {
    let output = Command::new(env!("CARGO_BIN_EXE_latimer")).args(["demo", "--once"]).output().expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "SUBSCRIBE sip:lena@chat.example",
        "      pending",
        "<presence from='marta@voip.example' type='subscribe'>",
        "<presence to='marta@voip.example' type='subscribed'>",
        "      active open away",
        "\u{201C}on the tram\u{201D}",
        "SUBSCRIBE sip:marta@voip.example",
        "<presence from='marta@voip.example' type='subscribed'>",
        "<presence from='marta@voip.example/phone'>",
        "      active open chat",
        "MESSAGE sip:lena@chat.example",
        "stream voip.example -> chat.example proved",
        "<message from='marta@voip.example'>",
        "200 OK",
        "\u{1F319}, and I bring <bread> & tea.",
        "item-not-found",
        "Everything arrived.",
    ] {
        assert!(shown.contains(words), "the demo does not show {words:?}:\n{shown}");
    }
}
