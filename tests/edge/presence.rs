//! Presence and contacts in both directions, in the documents of this world.

use crate::documents::{categories, document, draft, presentity};
use crate::message::Message;
use crate::player::{Answer, Edge, User, expires, watching};
use crate::xmpp::Client;
use crate::{EJABBERD, ONE_SECOND, Outcome, PROSODY, QUIET, SOON, Scenario, Site, ensure, equal};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    ("f11-refresh-and-expiry", refresh_and_expiry),
    ("f23-subscription-refresh", subscription_refresh),
    ("f42-restart", restart),
    ("f09-lync-watches-xmpp-prosody", |site| lync_watches(site, PROSODY)),
    ("f09-lync-watches-xmpp-ejabberd", |site| lync_watches(site, EJABBERD)),
    ("f10-poll", poll),
    ("f12-xmpp-watches-lync-prosody", |site| xmpp_watches(site, PROSODY)),
    ("f12-xmpp-watches-lync-ejabberd", |site| xmpp_watches(site, EJABBERD)),
    ("f13-benotify", benotify),
    ("f14-consent-lync-side", consent_of_lync),
    ("f15-consent-xmpp-side", consent_of_xmpp),
    ("f16-partner-type-federated", |site| partner_type(site, "federated")),
    ("f17-partner-type-public-verified", |site| partner_type(site, "public-verified")),
    ("f18-partner-type-public-unverified", unverified),
    ("f33-batched-list", batched_list),
];

pub const CATEGORIES: &str = "application/msrtc-event-categories+xml";
pub const PRESENTITY: &str = "text/xml+msrtc.pidf";
pub const PIDF: &str = "application/pidf+xml";

/// Tells a watcher of ours, in the dialog that the gateway's SUBSCRIBE made.
pub fn tell(edge: &Edge, call: &str, method: &str, state: &str, kind: &str, body: &str) -> Outcome<String> {
    let extra = ["Event: presence".to_string(), format!("subscription-state: {state}")];
    let kind = if body.is_empty() { "" } else { kind };
    edge.begin_inside(call, method, &extra, kind, body)
}

/// The same by NOTIFY, which must be answered 200.
pub fn notify(edge: &Edge, call: &str, state: &str, kind: &str, body: &str) -> Outcome {
    let branch = tell(edge, call, "NOTIFY", state, kind, body)?;
    let answer = edge.finish(&branch, SOON)?;
    equal("the answer to the NOTIFY", answer.status(), 200)
}

/// An SIP user watches an XMPP user, who approves; gives the Call-ID.
pub fn watch(edge: &Edge, user: &User, guest: &mut Client, bare: &str) -> Outcome<String> {
    let (answer, call) = edge.subscribe(user, bare, 36_000)?;
    equal("the answer to the SUBSCRIBE", answer.status() / 100, 2)?;
    ensure(expires(&answer) > 0, || format!("Expires is {}", answer.field("expires")))?;
    guest.wait_contact("subscribe", &user.address, SOON)?;
    guest.contact("subscribed", &user.address)?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("active open"))?;
    Ok(call)
}

/// An XMPP user adds a SIP user; gives the SUBSCRIBE of the gateway. The Edge answers with
/// what was set, else with 200 and nothing more.
pub fn add(edge: &Edge, user: &User, guest: &mut Client) -> Outcome<Message> {
    guest.contact("subscribe", &user.address)?;
    let to = format!("sip:{}", user.address);
    edge.wait_request_like("SUBSCRIBE", SOON, |m| m.uri("to") == to)
}

fn lync_watches(site: &Site, partner: &str) -> Outcome {
    let (_latimer, edge) = site.open(partner, &[])?;
    let (mut guest, bare) = site.guest(partner)?;
    let odile = edge.user("odile");
    let call = watch(&edge, &odile, &mut guest, &bare)?;
    for (show, note, wanted) in [
        ("away", "", "active open away"),
        ("dnd", "", "active open busy"),
        ("chat", "", "active open"),
        ("xa", "", "active open away"),
        ("", "na obědě", "active open"),
    ] {
        // One change a second is told.
        std::thread::sleep(Duration::from_millis(1100));
        let begun = Instant::now();
        guest.be(show, note)?;
        let fits = |words: &str| if note.is_empty() { words == wanted } else { words.starts_with(wanted) };
        edge.wait_notify(&call, SOON, fits).map_err(|why| format!("{show:?}: {why}"))?;
        ensure(begun.elapsed() < ONE_SECOND, || format!("{show:?} took {:?}", begun.elapsed()))?;
    }
    std::thread::sleep(Duration::from_millis(1100));
    guest.be_gone()?;
    edge.wait_notify(&call, SOON, |words| words == "active closed")?;
    // The refresh keeps the format; the end is told.
    let answer = edge.inside(&call, "SUBSCRIBE", &watching(36_000), "", "")?;
    equal("the refresh", answer.status(), 200)?;
    let answer = edge.inside(&call, "SUBSCRIBE", &watching(0), "", "")?;
    equal("the end", answer.status(), 200)?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("terminated")).map(drop)
}

fn poll(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let (answer, call) = edge.subscribe(&odile, &bare, 0)?;
    equal("the answer", answer.status() / 100, 2)?;
    equal("Expires", answer.field("expires"), "0")?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("terminated"))?;
    edge.never("NOTIFY", QUIET)?;
    let later = edge.inside(&call, "SUBSCRIBE", &watching(600), "", "")?;
    equal("a refresh of what is over", later.status(), 481)?;
    guest.never_contact("subscribe", &odile.address, Duration::from_millis(100))?;
    // Whom the XMPP user lets watch gets a document.
    let watched = watch(&edge, &odile, &mut guest, &bare)?;
    let (answer, call) = edge.subscribe(&odile, &bare, 0)?;
    equal("the answer", answer.status() / 100, 2)?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("terminated") && words.contains("open"))?;
    guest.be("away", "")?;
    edge.wait_notify(&watched, SOON, |words| words == "active open away").map(drop)
}

fn refresh_and_expiry(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let call = watch(&edge, &odile, &mut guest, &bare)?;
    let answer = edge.inside(&call, "SUBSCRIBE", &watching(60), "", "")?;
    equal("the refresh", answer.status(), 200)?;
    equal("Expires", expires(&answer), 60)?;
    if document(&answer).is_empty() {
        edge.wait_notify(&call, SOON, |words| words == "active open")?;
    }
    let begun = Instant::now();
    edge.wait_notify(&call, Duration::from_secs(80), |words| words.starts_with("terminated timeout"))?;
    ensure(begun.elapsed() > Duration::from_secs(55), || format!("it ended after {:?}", begun.elapsed()))?;
    guest.wait_for("unavailable", SOON, |e| {
        e.name == "presence" && e.attribute("type") == "unavailable" && e.attribute("from").starts_with(&odile.address)
    })?;
    let later = edge.inside(&call, "SUBSCRIBE", &watching(600), "", "")?;
    equal("a refresh of what is over", later.status(), 481)
}

fn xmpp_watches(site: &Site, partner: &str) -> Outcome {
    let (_latimer, edge) = site.open(partner, &[])?;
    let (mut guest, _) = site.guest(partner)?;
    // The first document rides in the answer.
    let odile = edge.user("odile");
    let body = presentity(&odile.address, 300, 600, "W Łodzi do piątku");
    let lines = [
        "Event: presence",
        "subscription-state: active;expires=29087",
        "ms-piggyback-cseq: 1",
        "Supported: ms-piggyback-first-notify",
    ];
    edge.next("SUBSCRIBE", Answer::With(lines.map(String::from).to_vec(), PRESENTITY, body));
    let subscribe = add(&edge, &odile, &mut guest)?;
    ensure(subscribe.field("accept").contains(PRESENTITY), || format!("Accept: {}", subscribe.field("accept")))?;
    guest.wait_contact("subscribed", &odile.address, SOON)?;
    guest.wait_sees(&odile.address, "dnd (W Łodzi do piątku)", SOON).map_err(|why| format!("in the answer: {why}"))?;

    // Categories, busy and offline.
    let rhea = edge.user("rhea");
    let call = add(&edge, &rhea, &mut guest)?.field("call-id").to_string();
    let mut told = |availability, activity: &str, note: &str, wanted: &str| -> Outcome {
        let body = categories(&rhea.address, availability, activity, note);
        notify(&edge, &call, "active;expires=28790", CATEGORIES, &body)?;
        guest.wait_sees(&rhea.address, wanted, SOON).map_err(|why| format!("categories with {availability}: {why}"))
    };
    // Without a note the activity is what one reads.
    told(6500, "on-the-phone", "", "dnd (On the phone)")?;
    told(18_500, "", "", "gone")?;
    told(3500, "", "", "available")?;
    told(5000, "", "", "away")?;
    told(9500, "", "", "dnd")?;
    told(12_500, "", "", "away")?;
    told(3500, "", "Grüße", "available (Grüße)")?;
    // A category that is not there has not changed.
    told(6500, "in-a-meeting", "", "dnd (Grüße)")?;

    // PIDF with the activity of the draft; closed and terminated, under a name without scheme.
    let silas = edge.user("silas");
    let call = add(&edge, &silas, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=29000", PIDF, &draft(&format!("sip:{}", silas.address), "open", "away"))?;
    guest.wait_sees(&silas.address, "away", SOON).map_err(|why| format!("the draft: {why}"))?;
    notify(&edge, &call, "terminated;reason=timeout", PIDF, &draft(&silas.address, "closed", ""))?;
    guest.wait_sees(&silas.address, "gone", SOON)?;
    let again = edge.wait_request_like("SUBSCRIBE", Duration::from_secs(40), |m| m.uri("to").contains("silas@"))?;
    ensure(again.field("call-id") != call, || "the ended dialog was used".into())?;
    notify(&edge, again.field("call-id"), "active;expires=29000", PIDF, &draft(&silas.address, "open", ""))?;
    guest.wait_sees(&silas.address, "available", SOON)?;

    // What was never offered changes nothing and is not expanded.
    let xpidf = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE presence PUBLIC \"-//IETF//DTD RFCxxxx XPIDF 1.0//EN\" \"xpidf.dtd\">\n\
         <presence><presentity uri=\"sip:{0};method=SUBSCRIBE\"/><atom id=\"1003\"><address uri=\"sip:{0}\" \
         priority=\"0.800000\"><status status=\"inuse\"/><msnsubstatus substatus=\"busy\"/></address></atom></presence>\n",
        silas.address
    );
    let branch =
        tell(&edge, again.field("call-id"), "NOTIFY", "active;expires=28000", "application/xpidf+xml", &xpidf)?;
    let status = edge.finish(&branch, SOON)?.status();
    ensure([200, 415].contains(&status), || format!("XPIDF was answered {status}"))?;
    guest.still_sees(&silas.address, "available", QUIET)
}

fn benotify(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=28790", CATEGORIES, &categories(&odile.address, 3500, "", ""))?;
    guest.wait_sees(&odile.address, "available", SOON)?;
    std::thread::sleep(Duration::from_millis(500));
    let octets = || edge.links().iter().map(|link| link.heard.load(std::sync::atomic::Ordering::Relaxed)).sum::<u64>();
    let before = octets();
    let away = categories(&odile.address, 15_500, "Out of office until Monday", "W Łodzi");
    tell(&edge, &call, "BENOTIFY", "active;expires=28780", CATEGORIES, &away)?;
    guest.wait_for("away", SOON, |e| {
        e.name == "presence"
            && e.attribute("from").starts_with(&odile.address)
            && ["away", "xa"].contains(&e.text_of("show"))
    })?;
    tell(&edge, &call, "BENOTIFY", "active;expires=28770", CATEGORIES, &categories(&odile.address, 18_500, "", ""))?;
    guest.wait_sees(&odile.address, "gone", SOON)?;
    std::thread::sleep(QUIET);
    equal("octets sent back", octets() - before, 0)
}

fn consent_of_lync(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    // Not yet allowed: an Edge says 200 and "offline". The subscription is there, so is
    // the approval (RFC 8048 section 5.2.1): nothing tells a block from an absence.
    let call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=28790", CATEGORIES, &categories(&odile.address, 18_500, "", ""))?;
    guest.wait_contact("subscribed", &odile.address, SOON)?;
    ensure(["gone", "nothing"].contains(&&*guest.sees(&odile.address)), || guest.sees(&odile.address))?;
    notify(&edge, &call, "active;expires=28700", CATEGORIES, &categories(&odile.address, 3500, "", ""))?;
    guest.wait_sees(&odile.address, "available", SOON)?;
    // One that says it waits is not approved.
    let rhea = edge.user("rhea");
    let call = add(&edge, &rhea, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "pending;expires=28790", "", "")?;
    guest.never_contact("subscribed", &rhea.address, QUIET)?;
    notify(&edge, &call, "active;expires=28700", CATEGORIES, &categories(&rhea.address, 6500, "", ""))?;
    guest.wait_contact("subscribed", &rhea.address, SOON)?;
    guest.wait_sees(&rhea.address, "dnd", SOON)?;
    // One that refuses, at once.
    let silas = edge.user("silas");
    edge.next("SUBSCRIBE", Answer::Refuse(403, "Forbidden", vec!["ms-diagnostics-public: 1012;reason=\"No\"".into()]));
    add(&edge, &silas, &mut guest)?;
    guest.wait_contact("unsubscribed", &silas.address, SOON).map(drop)
}

fn consent_of_xmpp(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let (answer, call) = edge.subscribe(&odile, &bare, 36_000)?;
    equal("the answer", answer.status() / 100, 2)?;
    guest.wait_contact("subscribe", &odile.address, SOON)?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("pending")).or_else(|why| {
        // A watcher who is not let may be told "closed" as well (RFC 3857 section 3).
        if why.contains("active closed") { Ok(answer.clone()) } else { Err(why) }
    })?;
    guest.contact("unsubscribed", &odile.address)?;
    edge.wait_notify(&call, SOON, |words| words.starts_with("terminated rejected"))?;
    let (answer, call) = edge.subscribe(&odile, &bare, 36_000)?;
    match answer.status() {
        403 => Ok(()),
        200 | 202 => {
            guest.wait_contact("subscribe", &odile.address, SOON)?;
            guest.contact("subscribed", &odile.address)?;
            edge.wait_notify(&call, SOON, |words| words.starts_with("active open")).map(drop)
        }
        other => Err(format!("the next SUBSCRIBE was answered {other}")),
    }
}

/// What a note in a document of categories becomes at a partner of this type; messages
/// that nobody asked for pass.
fn partner_type(site: &Site, kind: &str) -> Outcome {
    let edge = site.edge()?;
    let text = site.config(PROSODY, &[&format!("partner {PROSODY} type {kind}")])?;
    let _latimer = site.latimer(&text)?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    guest.message(&odile.address, "you do not know me")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "you do not know me")?;
    let call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=28790", CATEGORIES, &categories(&odile.address, 3500, "", "At the mill"))?;
    guest.wait_contact("subscribed", &odile.address, SOON)?;
    let wanted = if kind == "federated" { "available (At the mill)" } else { "available" };
    guest.wait_sees(&odile.address, wanted, SOON)?;
    notify(&edge, &call, "active;expires=28700", CATEGORIES, &categories(&odile.address, 15_500, "", "Elsewhere"))?;
    let wanted = if kind == "federated" { "away (Elsewhere)" } else { "away" };
    guest.wait_sees(&odile.address, wanted, SOON)
}

fn unverified(site: &Site) -> Outcome {
    let edge = site.edge()?;
    let text = site.config(PROSODY, &[&format!("partner {PROSODY} type public-unverified")])?;
    let _latimer = site.latimer(&text)?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let id = guest.message(&odile.address, "you do not know me")?;
    equal("the error", guest.wait_error(&id, SOON)?.error().as_str(), "auth forbidden")?;
    guest.contact("subscribe", &odile.address)?;
    std::thread::sleep(QUIET);
    for method in ["INVITE", "MESSAGE", "SUBSCRIBE"] {
        edge.never(method, Duration::ZERO)?;
    }
    // Once the SIP user has him as a contact, both pass.
    let call = watch(&edge, &odile, &mut guest, &bare)?;
    guest.message(&odile.address, "now you do")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "now you do")?;
    let subscribe = match edge.wait_request("SUBSCRIBE", Duration::from_secs(1)) {
        Ok(subscribe) => subscribe,
        Err(_) => add(&edge, &odile, &mut guest)?,
    };
    let body = categories(&odile.address, 3500, "", "Only for friends");
    notify(&edge, subscribe.field("call-id"), "active;expires=28790", CATEGORIES, &body)?;
    guest.wait_sees(&odile.address, "available", SOON)?;
    equal("the end of the watch", edge.inside(&call, "SUBSCRIBE", &watching(0), "", "")?.status(), 200)
}

fn subscription_refresh(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &["xmpp subscription-refresh-interval 60", "presence expires 60"])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    // Both directions: the gateway's own subscription, and the authorization behind ours.
    let call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=60", CATEGORIES, &categories(&odile.address, 3500, "", ""))?;
    guest.wait_sees(&odile.address, "available", SOON)?;
    let watched = watch(&edge, &odile, &mut guest, &bare)?;
    let refresh = edge.wait_request("SUBSCRIBE", Duration::from_secs(75))?;
    equal("the dialog of the refresh", refresh.field("call-id"), call.as_str())?;
    ensure(!refresh.tag("to").is_empty(), || "it is a new subscription".into())?;
    notify(&edge, &call, "active;expires=60", CATEGORIES, &categories(&odile.address, 6500, "", ""))?;
    guest.wait_sees(&odile.address, "dnd", SOON)?;
    // The watch of ours lives as long as it is refreshed, whatever was probed.
    let answer = edge.inside(&watched, "SUBSCRIBE", &watching(60), "", "")?;
    equal("our refresh", answer.status(), 200)?;
    guest.be("away", "")?;
    edge.wait_notify(&watched, SOON, |words| words == "active open away").map(drop)
}

fn batched_list(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let lines = [
        "Require: adhoclist, categoryList".to_string(),
        "Supported: eventlist".into(),
        "Supported: ms-piggyback-first-notify".into(),
        "Event: presence".into(),
        "Accept: application/msrtc-event-categories+xml, application/rlmi+xml, multipart/related, application/pidf+xml"
            .into(),
        "Expires: 36000".into(),
    ];
    let body = format!(
        "<batchSub xmlns=\"http://schemas.microsoft.com/2006/01/sip/batch-subscribe\" uri=\"sip:{}\" name=\"\">\n <action \
         name=\"subscribe\" id=\"2201\">\n  <adhocList><resource uri=\"sip:{bare}\"/></adhocList>\n  <categoryList \
         xmlns=\"http://schemas.microsoft.com/2006/09/sip/categorylist\"><category name=\"state\"/><category \
         name=\"note\"/></categoryList>\n </action>\n</batchSub>\n",
        odile.address
    );
    let kind = "application/msrtc-adrl-categorylist+xml";
    let (answer, _) = edge.ask(&odile, "SUBSCRIBE", &bare, &lines, kind, &body)?;
    equal("the answer", answer.status(), 420)?;
    let mut unsupported: Vec<String> = answer.list("unsupported").iter().map(|tag| tag.to_ascii_lowercase()).collect();
    unsupported.sort();
    equal("Unsupported", unsupported, vec!["adhoclist".to_string(), "categorylist".into()])?;
    edge.never("NOTIFY", QUIET)?;
    guest.never_contact("subscribe", &odile.address, Duration::from_millis(100))?;
    watch(&edge, &odile, &mut guest, &bare).map(drop)
}

/// Killed and started again: what both sides see is right within a minute, and nothing
/// comes twice.
fn restart(site: &Site) -> Outcome {
    let (mut latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let watched = watch(&edge, &odile, &mut guest, &bare)?;
    let mut call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=28790", CATEGORIES, &categories(&odile.address, 3500, "", ""))?;
    guest.wait_sees(&odile.address, "available", SOON)?;
    let talk = crate::im::open(&edge, &odile, &bare, "before")?;
    guest.wait_message("before")?;

    latimer.signal("KILL")?;
    latimer.wait(Duration::from_secs(2))?;
    guest.be("dnd", "")?;
    let back = Instant::now();
    latimer.start_again()?;
    let minute = Duration::from_secs(60);
    // The Edge sees how the XMPP user became, in the dialog it has.
    edge.wait_notify(&watched, minute, |words| words == "active open busy")?;
    // It tells how its own user became: where that dialog is unknown, the gateway makes one.
    let busy = categories(&odile.address, 6500, "", "");
    loop {
        if let Ok(subscribe) = edge.wait_request("SUBSCRIBE", Duration::from_millis(100)) {
            call = subscribe.field("call-id").into();
        }
        let branch = tell(&edge, &call, "NOTIFY", "active;expires=28700", CATEGORIES, &busy)?;
        if edge.finish(&branch, SOON)?.status() == 200 {
            break;
        }
        ensure(back.elapsed() < minute, || "the gateway takes no NOTIFY after a minute".into())?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let left = minute.saturating_sub(back.elapsed());
    guest.wait_sees(&odile.address, "dnd", left)?;
    // The session is gone, which an Edge learns by 481; it opens a new one.
    let answer =
        edge.inside(&talk.call, "MESSAGE", &crate::player::supported(), "text/plain; charset=UTF-8", "after")?;
    if answer.status() != 200 {
        equal("the answer in the lost session", answer.status(), 481)?;
        crate::im::open(&edge, &odile, &bare, "after")?;
    }
    guest.wait_message("after")?;
    let more = crate::im::texts(&mut guest, QUIET);
    ensure(more.is_empty(), || format!("it came twice: {more:?}"))
}
