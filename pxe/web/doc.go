// Package web serves a fixed set of named files over plain HTTP, read-only: to
// UEFI firmware, shim, iPXE, installers and curl. GET and HEAD always carry
// Content-Length, without which UEFI HTTP boot does not start a download, and
// ranges (RFC 9110 section 14) let an interrupted one go on.
//
// Names are looked up, never joined to a path, and never redirected: shim asks
// for "//grubx64.efi", which http.ServeMux would answer with a redirect that
// firmware does not follow.
//
// The package knows no TLS, no authentication, no directory listing and no
// cache control, does not open or close what Files returns, and does not decide
// which machine may have which file.
package web
