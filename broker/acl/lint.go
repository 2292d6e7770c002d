package acl

import (
	"fmt"
	"strings"
)

// knownAction describes an action of reference §5.1.
type knownAction struct {
	name     string
	resource string // type with its slash; "*" for one that names none
}

// knownActions lists what [Parse] does not warn about, in lower case.
func knownActions() []knownAction {
	return []knownAction{
		{"iot:connect", "client/"},
		{"iot:deleteconnection", "client/"},
		{"iot:publish", "topic/"},
		{"iot:retainpublish", "topic/"},
		{"iot:receive", "topic/"},
		{"iot:getretainedmessage", "topic/"},
		{"iot:listretainedmessages", "*"},
		{"iot:subscribe", "topicfilter/"},
		{"iot:getthingshadow", "thing/"},
		{"iot:updatethingshadow", "thing/"},
		{"iot:deletethingshadow", "thing/"},
		{"iot:listnamedshadowsforthing", "thing/"},
		{"iotjobsdata:describejobexecution", "thing/"},
		{"iotjobsdata:getpendingjobexecutions", "thing/"},
		{"iotjobsdata:updatejobexecution", "thing/"},
		{"iotjobsdata:startnextpendingjobexecution", "thing/"},
		{"iot:describejobexecution", "thing/"},
		{"iot:getpendingjobexecutions", "thing/"},
		{"iot:updatejobexecution", "thing/"},
		{"iot:startnextpendingjobexecution", "thing/"},
		{"iot:assumerolewithcertificate", "rolealias/"},
		{"greengrass:discover", "thing/"},
	}
}

func (p *parser) lintAction(item node, g *glob) {
	for _, a := range knownActions() {
		if g.match(a.name) {
			return
		}
	}
	p.warn(item.at, "no known action matches "+quote(item.text), "check its spelling; the statement has no effect on a device")
}

func (p *parser) lintKey(at int, name string) {
	if !knownKey(canonicalKey(name)) {
		p.warn(at, "unknown condition key "+quote(name), "check its spelling; the gateway never sets it")
	}
}

// lintTemplate warns of what is doubtful in the text of a resource or a condition's value.
func (p *parser) lintTemplate(item node, t template, effect Effect) {
	for _, k := range t {
		switch {
		case k.kind != variable:
		case !knownKey(k.text):
			p.warn(item.at, "unknown variable ${"+k.text+"}", "check its spelling; the gateway never sets it, so that nothing matches")
		case effect == ExplicitDeny && !alwaysPresent(k.text):
			p.shaky = append(p.shaky, shakyDeny{statement: len(p.statements), at: item.at, variable: k.text})
		}
	}
	for _, s := range []string{"$(*)", "$(?)", "$($)"} {
		if p.variables && strings.Contains(item.text, s) {
			p.warn(item.at, s+" is not an escape", "write it with braces: $"+strings.NewReplacer("(", "{", ")", "}").Replace(s[1:]))
		}
	}
	if !p.variables && strings.Contains(item.text, "${") {
		p.warn(item.at, "variables are plain text in a document of this version", `write "Version": "2012-10-17"`)
	}
}

// A shakyDeny is a place where a Deny depends on a variable that may be absent.
type shakyDeny struct {
	statement int // index
	at        int
	variable  string
}

// lintDenies warns of each shakyDeny, unless what it takes from is not granted either when the
// variable is absent: every Allow of the document for one of its actions needs the variable too.
func (p *parser) lintDenies() {
	for _, d := range p.shaky {
		deny, harmless := &p.statements[d.statement], true
		for i := range p.statements {
			allow := &p.statements[i]
			harmless = harmless && (allow.effect != Allow || !deny.sharesAction(allow) || allow.needs(d.variable))
		}
		if !harmless {
			p.warn(d.at, "a Deny depends on ${"+d.variable+"}, which may be absent: it then denies nothing", "deny what needs no variable, or allow only what needs it too")
		}
	}
}

func (st *statement) sharesAction(other *statement) bool {
	for _, a := range knownActions() {
		if st.acts(a.name) && other.acts(a.name) {
			return true
		}
	}
	return false
}

// needs reports whether the statement covers nothing when the variable is absent.
func (st *statement) needs(variable string) bool {
	for i := range st.resources {
		if !st.resources[i].uses(variable) {
			if !st.notResource {
				return false
			}
		} else if st.notResource { // one absent entry is enough
			return true
		}
	}
	return !st.notResource
}

// lintResource warns of a resource that no action of its statement is checked against, and of
// MQTT wildcards where they mean nothing.
func (p *parser) lintResource(item node, pattern *arnPattern, s *statement) {
	if s.notAction || s.notResource {
		return
	}
	rest := pattern.rest.template
	if !pattern.split || len(rest) == 0 || rest[0].kind != literal {
		return
	}
	kind, _, ok := strings.Cut(rest[0].text, "/")
	if !ok {
		return
	}
	kind += "/"
	var wanted []string
	matched := false
	for _, a := range knownActions() {
		if !s.acts(a.name) {
			continue
		}
		matched = matched || a.resource == kind
		wanted = append(wanted, a.resource)
	}
	if len(wanted) > 0 && !matched {
		p.warn(item.at, fmt.Sprintf("no action of the statement is checked against %s", quote(kind)), "write "+wanted[0]+" there")
	}
	if kind == Topic.String() && hasMQTTWildcard(rest) {
		p.warn(item.at, "# and + are plain characters in a topic", "write * for any text")
	}
}

// hasMQTTWildcard reports whether a level of t's literal text is + or #.
func hasMQTTWildcard(t template) bool {
	for _, level := range strings.Split(t.text(), "/") {
		if level == "+" || level == "#" {
			return true
		}
	}
	return false
}

func (p *parser) sameSid(body *node) {
	if body == nil {
		return
	}
	seen := map[string]bool{}
	for _, item := range body.items {
		for _, m := range item.members {
			if m.name != "Sid" || m.value.text == "" {
				continue
			}
			if seen[m.value.text] {
				p.warn(m.value.at, "two statements have the Sid "+quote(m.value.text), "give each its own, so that a refusal names one")
			}
			seen[m.value.text] = true
		}
	}
}

// knownKey reports whether a canonical name is a condition key or variable of reference §5.3.
func knownKey(key string) bool {
	switch key {
	case "aws:sourceip", "iot:clientid", "iot:domainname", "iot:connectattributes", "iot:lastwilltopic",
		"iot:connection.thing.thingname", "iot:connection.thing.thingtypename", "iot:connection.thing.isattached",
		"iot:certificate.serialnumber", "iot:certificate.availablekeys":
		return true
	}
	if name, ok := strings.CutPrefix(key, "iot:connection.thing.attributes["); ok {
		return len(name) > 1 && strings.HasSuffix(name, "]")
	}
	for _, of := range []string{"iot:certificate.subject.", "iot:certificate.issuer."} {
		name, ok := strings.CutPrefix(key, of)
		if !ok {
			continue
		}
		if i := strings.LastIndexByte(name, '.'); i > 0 && isIndex(name[i+1:]) {
			name = name[:i]
		}
		return isCertificateAttribute(name)
	}
	return false
}

// isIndex reports whether s selects values of an attribute: .1 to .4, or .list.
func isIndex(s string) bool {
	return s == "list" || len(s) == 1 && '1' <= s[0] && s[0] < '0'+maxCertificateValues
}

func isCertificateAttribute(name string) bool {
	if alternative, ok := strings.CutPrefix(name, "alternativename."); ok {
		switch alternative {
		case "rfc822name", "dnsname", "directoryname", "uniformresourceidentifier", "ipaddress":
			return true
		}
		return false
	}
	for _, a := range nameAttributes() {
		if strings.EqualFold(name, a.key) {
			return true
		}
	}
	return false
}

// alwaysPresent reports whether every connection has the variable.
func alwaysPresent(key string) bool {
	switch key {
	case "aws:sourceip", "iot:clientid", "iot:connection.thing.isattached":
		return true
	}
	return false
}
