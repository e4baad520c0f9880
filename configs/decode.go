package configs

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// union is a type that YAML may write in more than one way. forms returns a
// zero value of a Go type for each of them.
type union interface{ forms() []any }

// noted is a struct type that knows keys it does not hold.
type noted interface{ notes() map[string]note }

// note is what to say about such a key.
type note struct {
	warning bool // read and left alone; otherwise refused
	text    string
	hint    string
}

// decode checks the document against the type out points to and fills out. A
// value that does not fit is reported and left out, so that the rest can still
// be looked at; false means that there is no rest. An empty document fits.
func (d *document) decode(out any) bool {
	if d.value == nil {
		return true
	}
	if !d.fits(d.root(), d.value, reflect.TypeOf(out).Elem()) {
		return false
	}
	for _, p := range d.problems {
		d.misfits = append(d.misfits, p.Path)
	}
	b, err := json.Marshal(d.value)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil && !d.broken() {
		d.fail(0, 0, "internal error: decoding what was checked: %v", err)
	}
	return err == nil
}

// fits reports whether v can be read as a t. What cannot, below v, is reported
// and taken out of v.
func (d *document) fits(a at, v any, t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Interface { // a part that somebody else reads
		return true
	}
	if v == nil {
		if k := t.Kind(); k != reflect.Slice && k != reflect.Map && k != reflect.Struct {
			a.errorf("has no value").Hint = "give it one or remove the key"
			return false
		}
		return true
	}
	found := len(d.problems)
	form, ok := pick(t, v)
	if !ok {
		d.mismatch(a, v, t)
		return false
	}
	switch v := v.(type) {
	case map[string]any:
		d.fitMapping(a, v, form)
	case []any:
		for i, item := range v {
			if _, empty := reflect.Zero(form.Elem()).Interface().(interface{ nullable() }); item == nil && empty {
				continue
			}
			if item == nil {
				a.item(i).errorf("an empty list item")
			} else if !d.fits(a.item(i), item, form.Elem()) {
				v[i] = nil
			}
		}
	case json.Number:
		if err := json.Unmarshal([]byte(v), reflect.New(form).Interface()); err != nil {
			a.errorf("want %s, got %s", describe(form), a.text())
			return false
		}
	}
	return len(d.problems) > found || d.try(a, v, t)
}

// pick chooses how v is to be read as a t.
func pick(t reflect.Type, v any) (form reflect.Type, ok bool) {
	for _, f := range forms(t) {
		switch v.(type) {
		case string:
			ok = f.Kind() == reflect.String || isText(f)
		case bool:
			ok = f.Kind() == reflect.Bool
		case json.Number:
			ok = f.Kind() >= reflect.Int && f.Kind() <= reflect.Uint64
		case []any:
			ok = f.Kind() == reflect.Slice
		case map[string]any:
			ok = f.Kind() == reflect.Map || f.Kind() == reflect.Struct && !isText(f)
		}
		if ok {
			return f, true
		}
	}
	return nil, false
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func forms(t reflect.Type) []reflect.Type {
	u, ok := reflect.Zero(t).Interface().(union)
	if !ok {
		return []reflect.Type{t}
	}
	var all []reflect.Type
	for _, f := range u.forms() {
		all = append(all, reflect.TypeOf(f))
	}
	return all
}

func (d *document) mismatch(a at, v any, t reflect.Type) {
	var wants []string
	for _, f := range forms(t) {
		wants = append(wants, describe(f))
	}
	var got string
	switch v.(type) {
	case map[string]any:
		got = "a mapping"
	case []any:
		got = "a list"
	case string:
		got = fmt.Sprintf("the string %q", v)
	case bool:
		got = "the boolean " + a.text()
	case json.Number:
		got = "the number " + a.text()
	}
	p := a.errorf("want %s, got %s", strings.Join(wants, " or "), got)
	_, text := v.(string)
	if isScalar(v) && !text && slices.Contains(wants, "a string") {
		p.Hint = fmt.Sprintf("quote it: %q", a.text())
	}
	if h, ok := reflect.Zero(t).Interface().(interface{ instead() string }); ok {
		p.Hint = h.instead()
	} else if isScalar(v) && len(wants) == 1 && strings.HasPrefix(wants[0], "a list") {
		p.Hint = fmt.Sprintf("write it as a list: [%s]", strconv.Quote(a.text()))
	}
}

// describe names a type as its writer in YAML knows it.
func describe(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[netip.Prefix]():
		return `an address with a prefix length, such as "192.0.2.10/24"`
	case t == reflect.TypeFor[netip.Addr]():
		return `an address, such as "192.0.2.10"`
	case isText(t):
		return "a string"
	}
	switch k := t.Kind(); {
	case k == reflect.Bool:
		return "true or false"
	case k >= reflect.Uint && k <= reflect.Uint64:
		return "a whole number, 0 or more"
	case k >= reflect.Int && k <= reflect.Int64:
		return "a whole number"
	case k == reflect.Slice && t.Elem().Kind() == reflect.String && len(forms(t.Elem())) == 1:
		return "a list of strings"
	case k == reflect.Slice:
		return "a list"
	case k == reflect.Map, k == reflect.Struct:
		return "a mapping"
	}
	return "a string"
}

func (d *document) fitMapping(a at, m map[string]any, t reflect.Type) {
	if t.Kind() == reflect.Map {
		for k, v := range m {
			if !d.fits(a.key(k), v, t.Elem()) {
				delete(m, k)
			}
		}
		return
	}
	names, types := fields(t)
	for k, v := range m {
		ft, ok := types[k]
		if !ok {
			a.key(k).onKey().unknown(k, names, t)
		}
		if !ok || !d.fits(a.key(k), v, ft) {
			delete(m, k)
		}
	}
}

// unknown reports a key that a struct type has no field for.
func (a at) unknown(key string, names []string, t reflect.Type) {
	var n note
	known := false
	if k, ok := reflect.Zero(t).Interface().(noted); ok {
		n, known = k.notes()[key]
	}
	switch {
	case !a.set(): // not read as text, which was reported
	case !known:
		msg := "unknown key"
		if s := suggest(key, names); s != "" {
			msg += fmt.Sprintf(": did you mean %q?", s)
		}
		a.errorf("%s", msg)
	case n.warning:
		a.warnf("%s", n.text).Hint = n.hint
	default:
		a.errorf("%s", n.text).Hint = n.hint
	}
}

// fields lists the keys of a struct in order, those of embedded structs included.
func fields(t reflect.Type) (names []string, types map[string]reflect.Type) {
	types = map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		names = append(names, name)
		types[name] = f.Type
	}
	return names, types
}

// try runs the type's own decoder, which may refuse the value.
func (d *document) try(a at, v any, t reflect.Type) bool {
	p := reflect.New(t)
	_, isJSON := p.Interface().(json.Unmarshaler)
	if !isJSON && !isText(t) {
		return true
	}
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, p.Interface())
	}
	switch {
	case err == nil:
	case t.PkgPath() == "net/netip":
		a.errorf("want %s, got %q", describe(t), v)
	default:
		a.errorf("%s", err)
	}
	return err == nil
}

// isKind checks what a Kubernetes-like document says it is, before anything
// else of it is looked at: the keys of another kind are not misspelt ones.
func (d *document) isKind(apiVersion, kind string) bool {
	m, ok := d.value.(map[string]any)
	if d.value == nil {
		d.fail(0, 0, "the file is empty")
	} else if !ok {
		d.root().errorf("want a mapping with apiVersion, kind, metadata and spec")
	}
	for _, want := range [][2]string{{"apiVersion", apiVersion}, {"kind", kind}} {
		got, there := m[want[0]]
		switch {
		case !ok || got == want[1]:
		case there:
			d.root().key(want[0]).errorf("want %q, got %q", want[1], fmt.Sprint(got))
		default:
			d.root().key(want[0]).errorf("missing: write \"%s: %s\"", want[0], want[1])
		}
	}
	return !d.broken()
}
