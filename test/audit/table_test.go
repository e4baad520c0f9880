package audit

// unstartable are commands that need not start, each with its reason.
var unstartable = map[string]string{}
